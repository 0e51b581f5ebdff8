"""`datasets` builders of the compositional datasets with hard negatives: one config per source of negatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from ..data.annotations import SPLITS, add_negatives, compositional_rows, read_negatives
from ..data.sources import ANNOTATIONS, AUTHORS_NEGATIVES
from ..negatives.splits import generate_for_splits
from ..schema import FEATURES, check_rows

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class About:
    """What the card of a dataset says in words.

    Args:
        title, description: Of the dataset.
        repo_id: Where it is published.
        videos: Whose the videos are, and where they are to be had.
        known_faults: Of the annotations; what can be counted is in the card anyhow.
        citation: BibTeX.
    """

    title: str
    description: str
    repo_id: str
    videos: str
    known_faults: tuple[str, ...]
    citation: str


@dataclass
class NegativesConfig(datasets.BuilderConfig):
    """One source of negatives.

    Args:
        generator: `lexical` or `random_words` generate the negatives of every split while building; None for the authors' released
            negatives, or those of `negatives_files`.
        negatives_files: Exports of `shine-hf negatives generate`, one per split.
        videos: A folder of videos named `{vid}.mp4` (or .mkv, .webm, …), which become the column `video`.
        seed: Seed of a generator.
    """

    generator: str | None = None
    negatives_files: tuple[str, ...] = ()
    videos: str | None = None
    seed: int = 0

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Beside the options, the state of the files that are read: changed files must not be answered from a cache."""
        files = [*map(Path, self.negatives_files), *(Path(self.data_dir).rglob("*.json*") if self.data_dir else ())]
        stamps = [
            f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in sorted(files) if path.is_file()
        ]
        return super().create_config_id({**config_kwargs, "files": stamps}, custom_features)


class CompositionalNegatives(datasets.GeneratorBasedBuilder):
    """Rows in the columns of `shine_hf.schema.FEATURES`. Subclasses say which dataset and which configs.

    With `data_dir` the original files are read from there, without it they are downloaded; either way their SHA-256 is checked.
    """

    BUILDER_CONFIG_CLASS = NegativesConfig
    VERSION = datasets.Version("1.0.0")
    dataset: str
    """A key of `shine_hf.data.annotations.COMPOSITIONAL_DATASETS`."""
    about: About
    """What the card says in words."""
    ON_DEMAND: tuple[str, ...] = ()
    """Configs that are built only where they are asked for by name, since their files are not to be had everywhere."""

    def _info(self) -> datasets.DatasetInfo:
        features = datasets.Features(FEATURES)
        if self.config.videos:
            features["video"] = datasets.Video(decode=False)
        return datasets.DatasetInfo(features=features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        data_dir = self.config.data_dir
        rows = {
            split: list(
                compositional_rows(ANNOTATIONS[self.dataset][split].locate(data_dir, dl_manager.download), split)
            )
            for split in SPLITS
        }
        if self.config.negatives_files:
            for file in self.config.negatives_files:
                add_negatives(rows, read_negatives(Path(file)), source=file)
        elif self.config.generator:
            rows = generate_for_splits(self.dataset, rows, self.config.generator, self.config.seed)
        else:
            path = AUTHORS_NEGATIVES[self.dataset].locate(data_dir, dl_manager.download)
            add_negatives(rows, read_negatives(path), source=str(path))
            rows["train"] = _validated(rows["train"])
        for split in SPLITS:
            check_rows(rows[split], source=f"{self.dataset} {split}")
        videos = find_videos(self.config.videos, {row["vid"] for split in SPLITS for row in rows[split]})
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"rows": _Rows(rows[split]), "videos": videos})
            for split in SPLITS
        ]

    def how_made(self) -> dict:
        """How the negatives of this config were made, for its card."""
        from ..negatives.files import read_provenance

        config = self.config
        if config.negatives_files:
            return {"files": {Path(file).name: read_provenance(file) for file in config.negatives_files}}
        if config.generator:
            from .. import __version__
            from ..negatives.language.masking import RATIOS_OF_DATASET
            from ..negatives.language.tagging import Tagger

            return {
                "generator": config.generator,
                "seed": config.seed,
                "tagger": Tagger().provenance,
                "mask_ratios": list(RATIOS_OF_DATASET[self.dataset]),
                "cost": "none: no language model",
                "shine_hf_version": __version__,
            }
        source = AUTHORS_NEGATIVES[self.dataset]
        return {
            "model": "GPT-3.5 Turbo, asked by the authors of SHINE; the snapshot and the date are not stated",
            "prompt_version": "the authors' own; their repository holds no generation script",
            "tagger": "the authors' own, not stated",
            "cost": "not stated",
            "released": f"github.com/{source.repository[0]}, {source.path}, commit {source.repository[1]}",
            "flags": "`negative_flags` are by shine_hf; the texts are as they were released",
        }

    def _generate_examples(self, rows: _Rows, videos: Mapping[str, str]) -> Iterator[tuple[int, dict]]:
        for index, row in enumerate(rows.rows):
            row = {name: row[name] for name in FEATURES}
            if videos:
                row["video"] = videos[row["vid"]]
            yield index, row


@dataclass
class _Rows:
    """Rows as one argument: `datasets` takes a plain list for shards."""

    rows: list[dict] = field(default_factory=list)


def find_videos(folder: str | None, vids: set[str]) -> dict[str, str]:
    """vid -> video file in a folder; empty without a folder.

    Raises:
        FileNotFoundError: for a folder that does not exist, or videos that are not in it; names them.
    """
    if folder is None:
        return {}
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of videos {folder}")
    found = {path.stem: str(path) for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES}
    missing = sorted(vids - found.keys())
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} of {len(vids)} videos: {', '.join(missing)}")
    return {vid: found[vid] for vid in vids}


def _validated(rows: list[dict]) -> list[dict]:
    """Rows with `negative_flags`: what the checks of `shine_hf.negatives.validation` find."""
    from ..negatives.validation import validate_dataset

    return validate_dataset(datasets.Dataset.from_list(rows, features=FEATURES))[0].to_list()
