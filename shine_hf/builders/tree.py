"""The files of a published dataset, and the command line of the scripts that build them.

DIR/README.md                                   the card, rendered from all `build.json` files
DIR/eval.yaml                                   makes the dataset a benchmark on the Hub, with the metrics on the test splits as tasks
DIR/CONFIG/SPLIT-00000-of-00001.parquet         the rows
DIR/CONFIG/build.json                           how the config was made, its statistics, its features and sizes
DIR/CONFIG/statistics.png                       the figure of the card
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from ..cards.benchmark import BENCHMARK_FILE, render_benchmark
from ..cards.dataset_card import BUILD_FILE, CARD_FILE, read_builds, render_dataset_card
from ..cards.dataset_statistics import dataset_statistics, plot_statistics
from ..data.dataset_spec import DatasetSpec
from ..io import atomic_dir, atomic_file
from .compositional import CompositionalNegatives, NegativesConfig

FIGURE_FILE = "statistics.png"


def write_config(builder: CompositionalNegatives, output_dir: Path) -> dict:
    """Build one config and write its folder atomically.

    Returns:
        The content of `build.json`.
    """
    name = builder.config.name
    builder.download_and_prepare()
    splits = builder.as_dataset()
    statistics = dataset_statistics(
        {split: rows.remove_columns("video") if "video" in rows.features else rows for split, rows in splits.items()}
    )
    build = {
        "config_name": name,
        "default": name == builder.DEFAULT_CONFIG_NAME,
        "description": builder.config.description,
        "about": about(builder.spec),
        "how_made": builder.how_made(),
        "statistics": statistics,
    }
    with atomic_dir(output_dir / name) as new:
        folder = Path(new)
        _write_splits(splits, folder)
        build["dataset_info"] = _dataset_info(builder, folder)
        plot_statistics(statistics, folder / FIGURE_FILE)
        (folder / BUILD_FILE).write_text(json.dumps(build, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return build


def _write_splits(splits: DatasetDict, folder: Path) -> None:
    """Write the splits as Parquet, and read them back.

    Raises:
        OSError: if a file differs from its rows.
    """
    for split, rows in splits.items():
        path = folder / f"{split}-00000-of-00001.parquet"
        rows.to_parquet(path)
        with tempfile.TemporaryDirectory(prefix="shine-hf-check-") as cache_dir:
            if Dataset.from_parquet(str(path), cache_dir=cache_dir).data.table != rows.data.table:
                raise OSError(f"{path} differs from the rows that were built: the disk may be full or faulty")


def _dataset_info(builder: CompositionalNegatives, folder: Path) -> dict:
    """Return the `dataset_info` of a card, with the size of the files in the folder."""
    info = builder.info.copy()
    info.download_size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    card_data = DatasetCardData()
    DatasetInfosDict({builder.config.name: info}).to_dataset_card_data(card_data)
    return card_data.to_dict()["dataset_info"]


def about(spec: DatasetSpec) -> dict:
    """Return the texts for the card of a dataset."""
    return {
        "name": spec.title,
        "title": f"{spec.title} with hard negatives",
        "description": spec.description,
        "repo_id": spec.hub_id,
        "videos": spec.videos,
        "known_faults": list(spec.known_faults),
        "citation": spec.citation,
    }


def build_tree(
    builder_class: type[CompositionalNegatives],
    output_dir: str | Path,
    *,
    data_dir: str | Path | None = None,
    configs: Sequence[str] | None = None,
    negatives_files: dict[str, Sequence[str]] | None = None,
    videos: str | Path | None = None,
    repo_id: str | None = None,
) -> Path:
    """Build configs and write the complete tree. Configs that are already in the folder are kept, and stay in the card.

    Args:
        builder_class: The builder of one of the `dataset_scripts`.
        output_dir: Where to write.
        data_dir: Folder with the original files; None to download them.
        configs: Names of configs; by default all whose files are available, or none if `negatives_files` is given.
        negatives_files: Additional configs: name -> files written by `shine-hf negatives generate`.
        videos: A folder of videos for the column `video`. The column contains local paths, so such a tree is for local use only.
        repo_id: Where the tree will be published, for the quick start in the card.

    Returns:
        `output_dir`.

    Raises:
        FileNotFoundError, ValueError: for missing or changed source files, rows that break the schema, missing videos.
        OSError: if the files cannot be written.
    """
    output_dir, negatives_files = Path(output_dir), negatives_files or {}
    if configs is None:
        known = [config.name for config in builder_class.BUILDER_CONFIGS if config.name not in builder_class.ON_DEMAND]
        configs = [] if negatives_files else known
    output_dir.mkdir(parents=True, exist_ok=True)
    own = [
        NegativesConfig(name=name, negatives_files=tuple(map(str, files))) for name, files in negatives_files.items()
    ]
    # `datasets` looks configs up in the class, so make a subclass.
    members = {"BUILDER_CONFIGS": [*builder_class.BUILDER_CONFIGS, *own], "__module__": builder_class.__module__}
    extended = type(builder_class.__name__, (builder_class,), members)
    options = {
        "data_dir": None if data_dir is None else str(data_dir),
        "videos": None if videos is None else str(videos),
    }
    with tempfile.TemporaryDirectory(prefix="shine-hf-build-") as cache_dir:
        for name in [*configs, *negatives_files]:
            write_config(extended(config_name=name, cache_dir=cache_dir, **options), output_dir)
    builds = read_builds(output_dir)
    card = render_dataset_card(builds, repo_id or builder_class.spec.hub_id)
    for name, text in ((CARD_FILE, card), (BENCHMARK_FILE, render_benchmark(builds))):
        with atomic_file(output_dir / name) as file:
            file.write(text)
    return output_dir


def make_parser(builder_class: type[CompositionalNegatives]) -> argparse.ArgumentParser:
    """Return the parser of a dataset script."""
    parser = argparse.ArgumentParser(
        description=f"Build, check, write and publish {builder_class.spec.title} with hard negatives.",
        epilog="To add your own negatives, pass the files that `shine-hf negatives generate` writes as --negatives NAME=FILE.",
    )
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="where to write the files for the Hub")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with the original files (default: download them)")
    names = [config.name for config in builder_class.BUILDER_CONFIGS]
    parser.add_argument(
        "--configs", nargs="+", choices=names, help="sources of negatives (default: all whose files are available)"
    )
    parser.add_argument(
        "--negatives",
        action="append",
        default=[],
        metavar="NAME=FILE[,FILE…]",
        help="add a config from files written by `shine-hf negatives generate`; may be repeated",
    )
    parser.add_argument(
        "--with-videos", metavar="DIR", help="add the videos in this folder as a column, for local use only"
    )
    parser.add_argument("--push-to-hub", action="store_true", help="publish the files after writing them")
    parser.add_argument("--repo-id", default=builder_class.spec.hub_id, help="where to publish (default: %(default)s)")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", help="branch to publish to (default: main)")
    parser.add_argument("--commit-message", help="commit message")
    return parser


def main(builder_class: type[CompositionalNegatives], argv: Sequence[str] | None = None) -> int:
    """Build, write and publish a dataset with the options on the command line. Return the exit status: 2 for an error that the user can fix."""
    args = make_parser(builder_class).parse_args(argv)
    try:
        if args.push_to_hub and args.with_videos:
            raise ValueError(
                "--with-videos cannot be combined with --push-to-hub: the column contains local paths, and the videos may not be "
                "redistributed"
            )
        output = build_tree(
            builder_class,
            args.output_dir,
            data_dir=args.data_dir,
            configs=args.configs,
            negatives_files=dict(_named_files(text) for text in args.negatives),
            videos=args.with_videos,
            repo_id=args.repo_id,
        )
        for build in read_builds(output):
            counts = ", ".join(f"{name} {split['queries']:,}" for name, split in build["statistics"]["splits"].items())
            print(f"{output / build['config_name']}: {counts}")
        if args.push_to_hub:
            from ..hub.publish import publish_dataset

            options = {"private": args.private, "revision": args.revision, "message": args.commit_message}
            print(publish_dataset(output, args.repo_id, **options).url)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _named_files(text: str) -> tuple[str, list[str]]:
    name, _, files = text.partition("=")
    if (
        not name
        or not files
        or not all(part.isalnum() for part in name.replace("-", ".").replace("_", ".").split("."))
    ):
        raise ValueError(
            f"--negatives {text!r}: expected NAME=FILE[,FILE…], with a name of letters, digits, '-', '_' and '.'"
        )
    return name, files.split(",")
