"""The card of a dataset with negatives, rendered from only the `build.json` files of its configs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ..data.datasets import COMPOSITIONAL_REPOSITORY, SHINE_REPOSITORY
from ..schema import UNTRAINABLE_FLAGS
from .template import render_template

BUILD_FILE = "build.json"
CARD_FILE = "README.md"
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
TAGS = ("video-moment-retrieval", "temporal-grounding", "compositional-generalization", "hard-negatives", "shine")


def read_builds(folder: str | Path) -> list[Mapping]:
    """Return the `build.json` of every config in a tree, the default config first.

    Raises:
        FileNotFoundError: if the folder contains none. ValueError: if one cannot be read.
    """
    builds = []
    for path in sorted(Path(folder).glob(f"*/{BUILD_FILE}")):
        if path.parent.name.startswith((".", "_")):
            continue
        try:
            builds.append(json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not JSON ({error})") from error
    if not builds:
        raise FileNotFoundError(f"{folder} contains no CONFIG/{BUILD_FILE}: build it with one of the dataset_scripts")
    return sort_builds(builds)


def sort_builds(builds: Sequence[Mapping]) -> list[Mapping]:
    """Return the default config first, the others by name."""
    return sorted(builds, key=lambda build: (not build["default"], build["config_name"]))


def render_dataset_card(builds: Sequence[Mapping], repo_id: str) -> str:
    """Return the card, YAML header included: configs, splits, features and sizes.

    Args:
        builds: The result of [`read_builds`], for all configs that are (or remain) published.
        repo_id: Where the dataset is published, for the quick start.
    """
    builds = sort_builds(builds)
    first = builds[0]
    return render_template(
        "dataset_card.md",
        header=yaml.safe_dump(_metadata(builds), sort_keys=False, allow_unicode=True, width=120),
        about=first["about"],
        repo_id=repo_id,
        default=first["config_name"],
        builds=builds,
        statistics=first["statistics"],
        faults=_counted_faults(first["statistics"]),
        untrainable=sorted(UNTRAINABLE_FLAGS),
        checks=_failed_checks,
        annotations=_repository(COMPOSITIONAL_REPOSITORY),
        negatives=_repository(SHINE_REPOSITORY),
        yaml=lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000).strip(),
    )


def _metadata(builds: Sequence[Mapping]) -> dict:
    queries = sum(split["queries"] for split in builds[0]["statistics"]["splits"].values())
    configs, infos = [], []
    for number, build in enumerate(builds):
        name = build["config_name"]
        files = [{"split": split, "path": f"{name}/{split}-*.parquet"} for split in build["statistics"]["splits"]]
        configs.append({"config_name": name, "data_files": files} | ({"default": True} if number == 0 else {}))
        infos.append({"config_name": name, **build["dataset_info"]})
    return {
        "pretty_name": builds[0]["about"]["title"],
        "language": ["en"],
        "license": "other",
        "license_name": "mixed",
        "tags": list(TAGS),
        "size_categories": [next((name for limit, name in SIZE_CATEGORIES if queries < limit), "1M<n<10M")],
        "configs": configs,
        "dataset_info": infos,
    }


def _counted_faults(statistics: Mapping) -> list[str]:
    """Return a sentence about each problem that the counts show."""
    faults = []
    for flag, text in (
        ("window_after_end", "windows end after the video (`window_after_end`); training clips them"),
        ("window_before_start", "windows start before the video (`window_before_start`)"),
        ("window_empty", "windows are empty (`window_empty`)"),
        ("window_reversed", "windows end before they start (`window_reversed`)"),
        ("window_outside", "windows lie outside the video (`window_outside`)"),
    ):
        counts = {name: split["annotation_flags"].get(flag, 0) for name, split in statistics["splits"].items()}
        if any(counts.values()):
            faults.append(f"{_by_split(counts)} {text}.")
    repeated = {name: split["repeated_queries_of_a_video"] for name, split in statistics["splits"].items()}
    if any(repeated.values()):
        moments = sum(split["repeated_moments"] for split in statistics["splits"].values())
        faults.append(
            f"{_by_split(repeated)} rows repeat a query of the same video, {moments:,} of them with the same window."
        )
    in_train = {name: split["queries_in_train"] or 0 for name, split in statistics["splits"].items()}
    if any(in_train.values()):
        faults.append(f"{_by_split(in_train)} queries occur word for word in `train`.")
    for pair in statistics["shared"]:
        first, second = pair["splits"]
        if pair["videos"] and "train" in pair["splits"]:
            faults.append(f"`{first}` and `{second}` share {pair['videos']:,} videos.")
        elif pair["videos"] and pair["queries"]:
            faults.append(
                f"`{first}` and `{second}` share {pair['videos']:,} videos and {pair['queries']:,} sentences: never pool them."
            )
        elif pair["videos"]:
            faults.append(f"`{first}` and `{second}` share {pair['videos']:,} videos (not sentences).")
    return faults


def _failed_checks(flags: Sequence[Mapping[str, int]]) -> list[str]:
    """Return the checks that at least one negative fails, in the order of the validator, `any` last."""
    from ..negatives.validation import CHECKS

    return [name for name in (*CHECKS, "any") if any(level.get(name) for level in flags)]


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} `{name}`" for name, count in counts.items() if count)


def _repository(repository: tuple[str, str]) -> dict:
    return {"url": f"https://github.com/{repository[0]}", "name": repository[0], "commit": repository[1]}
