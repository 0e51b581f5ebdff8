"""`shine-hf publish`: publish datasets, features and models on the Hub."""

from __future__ import annotations

import argparse
from collections.abc import Callable

EXAMPLES = (
    "shine-hf publish dataset built/charades_cg --repo-id user/charades-cg-negatives",
    "shine-hf publish features packed --repo-id user/charades-i3d --title 'I3D features of Charades' --description 'RGB, 24 fps'",
    "shine-hf publish model trained --repo-id user/qd-detr-shine --private",
)

SUMMARIES = {
    "dataset": "publish a dataset written by one of the dataset_scripts",
    "features": "publish features written by `shine-hf features pack`",
    "model": "publish a saved model",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kinds of artifacts."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, summary in SUMMARIES.items():
        kind = kinds.add_parser(
            name, help=summary, description=f"{summary}. The token comes from `hf auth login` or HF_TOKEN."
        )
        kind.add_argument("folder", metavar="DIR", help="folder to publish")
        kind.add_argument(
            "--repo-id",
            required=True,
            metavar="OWNER/NAME",
            help="repository on the Hub; created if it does not exist",
        )
        kind.add_argument("--private", action="store_true", help="make the repository private")
        kind.add_argument("--revision", metavar="BRANCH", help="branch to publish to (default: main)")
        kind.add_argument("--commit-message", metavar="TEXT", help="commit message")
        if name == "features":
            kind.add_argument("--title", required=True, help="title of the card")
            kind.add_argument(
                "--description",
                required=True,
                help="what the features describe, how they were extracted, and who owns them",
            )
            kind.add_argument("--license", default="other", help="license in the card (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Publish a folder and print its URL."""
    from ..hub import publish

    options = {"private": args.private, "revision": args.revision, "message": args.commit_message}
    if args.kind == "features":
        options |= {"title": args.title, "description": args.description, "license": args.license}
    publish_kind: dict[str, Callable] = {
        "dataset": publish.publish_dataset,
        "features": publish.publish_features,
        "model": publish.publish_model,
    }
    print(publish_kind[args.kind](args.folder, args.repo_id, **options).url)
    return 0
