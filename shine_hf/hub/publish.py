"""Publish datasets, packed features and models: check them, and add their cards. [`publish_folder`] does the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import yaml

from ..cards.benchmark import BENCHMARK_FILE, render_benchmark
from ..cards.dataset_card import BUILD_FILE, CARD_FILE, read_builds, render_dataset_card
from ..cards.eval_results import EVAL_RESULTS_FILE
from ..cards.template import render_template
from ..encoders import public_spec
from .commit import IGNORED, Head, PublishedCommit, publish_folder

# Weights must be safetensors, since a pickle can run code when it is loaded.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Where the pushes of a running training wait.
UNPUSHED_FOLDER = ".unpushed"
# Files of a training run that are not part of the model.
TRAINING_LEFTOVERS = (
    "best/*",
    "checkpoint-*",
    "checkpoint-*/*",
    f"{UNPUSHED_FOLDER}/*",
    "_*",
    "runs/*",
    "optimizer.*",
    "scheduler.*",
    "scaler.pt",
    "rng_state*",
    "trainer_state.json",
    "training_args.bin",
    # FSDP and DeepSpeed.
    "pytorch_model_fsdp*",
    "optimizer_*",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
    # Logs, which contain paths on this machine.
    "*.log",
    "log.txt",
    "*.out",
    "events.out.tfevents*",
)
# Files in the repository that describe an earlier model, which would be wrong for new weights.
MODEL_SPECIFIC = ("figures/*", EVAL_RESULTS_FILE)


def publish_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> PublishedCommit:
    """Publish a tree written by [`build_tree`] in one commit. Configs of the repository that are not in the tree remain unchanged.

    The card and `eval.yaml` cover all configs, including those that remain.

    Args:
        folder: The tree.
        repo_id, private, revision, message, endpoint, token: See [`publish_folder`].

    Raises:
        FileNotFoundError, ValueError: for an incomplete tree, or one that contains local paths; else as [`publish_folder`].
    """
    folder = Path(folder)
    builds = read_builds(folder)
    for build in builds:
        _check_build(folder, build)
    names = [build["config_name"] for build in builds]

    def shared_files(head: Head) -> dict[str, bytes]:
        others = [
            json.loads(head.read(path))
            for path in sorted(head.files)
            if path.endswith(f"/{BUILD_FILE}") and path.count("/") == 1 and path.split("/")[0] not in names
        ]
        files = {
            CARD_FILE: render_dataset_card([*builds, *others], repo_id),
            BENCHMARK_FILE: render_benchmark([*builds, *others]),
        }
        return {name: text.encode() for name, text in files.items()}

    return publish_folder(
        folder,
        repo_id,
        "dataset",
        message=message or f"Publish {', '.join(names)}",
        private=private,
        revision=revision,
        # Remove the files of an earlier build of the same configs, and keep other configs.
        delete=[f"{name}/*" for name in names],
        extra_files=shared_files,
        endpoint=endpoint,
        token=token,
    )


def _check_build(folder: Path, build: Mapping) -> None:
    name = build["config_name"]
    for split in build["statistics"]["splits"]:
        if not list((folder / name).glob(f"{split}-*.parquet")):
            raise FileNotFoundError(f"{folder / name} contains no {split}-*.parquet: build the config again")
    if any(feature["name"] == "video" for feature in build["dataset_info"]["features"]):
        raise ValueError(f"{folder / name} was built with videos: it contains local paths and cannot be published")


def publish_features(
    folder: str | Path,
    repo_id: str,
    *,
    title: str,
    description: str,
    license: str = "other",
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> PublishedCommit:
    """Publish a packed folder as its own dataset, which `packed:{repo_id}` reads. Every array is read and checked first.

    Args:
        folder: A folder written by [`pack_features`].
        title: Title of the card.
        description: What the features describe (videos or sentences), the network and rate used to compute them, and who owns them.
        license: License in the card's header.
        repo_id, private, revision, message, endpoint, token: See [`publish_folder`].

    Raises:
        FileNotFoundError, ValueError: for a folder that is damaged or not packed; else as [`publish_folder`].
    """
    from ..features.packed import PackedFeatures

    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of packed features {folder}")
    store = PackedFeatures(folder)
    store.verify()
    lengths = [len(store[key]) for key in store]
    card = render_template(
        "features_card.md",
        header=yaml.safe_dump(
            {
                "pretty_name": title,
                "license": license,
                "tags": ["video-moment-retrieval", "features"],
                "configs": [{"config_name": "default", "data_files": "*.arrow"}],
            },
            sort_keys=False,
            allow_unicode=True,
        ),
        title=title,
        description=description,
        repo_id=repo_id,
        index=store.index,
        keys=len(store),
        rows=sum(lengths),
        shortest=min(lengths),
        longest=max(lengths),
    )
    return publish_folder(
        folder,
        repo_id,
        "dataset",
        message=message or f"Publish features of {len(store):,} keys",
        private=private,
        revision=revision,
        delete=["*.arrow"],
        extra_files={CARD_FILE: card.encode()},
        endpoint=endpoint,
        token=token,
    )


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> PublishedCommit:
    """Publish a saved model (`save_pretrained`, or the output folder of a training run, without its checkpoints).

    Args:
        folder: A folder with `config.json` and weights as safetensors.
        repo_id, private, revision, message, endpoint, token: See [`publish_folder`].

    Raises:
        FileNotFoundError: for a folder that contains no model. ValueError: for pickled weights; else as [`publish_folder`].
    """
    folder = Path(folder)
    check_model_files(folder)
    return publish_folder(
        folder,
        repo_id,
        "model",
        message=message or f"Publish {folder.resolve().name}",
        private=private,
        revision=revision,
        delete=MODEL_SPECIFIC,
        extra_files={"config.json": public_config(folder / "config.json")},
        ignore=(*IGNORED, *TRAINING_LEFTOVERS),
        endpoint=endpoint,
        token=token,
    )


def check_model_files(folder: Path) -> None:
    """Check that a folder contains a configuration and safetensors, and no pickles other than the `Trainer`'s.

    Raises:
        FileNotFoundError, ValueError: as [`publish_model`].
    """
    for pattern in ("config.json", "*.safetensors"):
        if not list(folder.glob(pattern)):
            raise FileNotFoundError(f"{folder} contains no {pattern}: pass the folder of a saved model")
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES and not is_leftover(path.name)]
    if pickles:
        raise ValueError(
            f"{folder} contains pickles ({', '.join(pickles)}), which can run code when they are loaded: remove them"
        )


def is_leftover(path: str) -> bool:
    """Return whether a path inside the output folder of a training run does not belong to the model."""
    return any(fnmatch(path, pattern) for pattern in TRAINING_LEFTOVERS)


def public_config(path: Path) -> bytes:
    """Return the content of a `config.json`, with the local paths of encoders reduced to their last part."""
    content = path.read_bytes()
    try:
        config = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    public = {name: public_spec(config[name]) for name in ("video_encoder", "text_encoder") if config.get(name)}
    if public.items() <= config.items():
        return content
    return (json.dumps(config | public, indent=2) + "\n").encode()
