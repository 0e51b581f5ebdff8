"""`datasets` builders for the compositional datasets with hard negatives, with one config per source of negatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from ..data.annotations import add_negatives, as_dataset, read_negatives
from ..data.dataset_spec import DatasetSpec
from ..data.datasets import AUTHORS_NEGATIVES, DATASETS
from ..data.files import raw_rows
from ..encoders.folders import find_videos
from ..negatives.splits import generate_for_splits
from ..schema import FEATURES


@dataclass
class NegativesConfig(datasets.BuilderConfig):
    """One source of negatives.

    Args:
        generator: `lexical`, `balanced` or `random_words` to generate the negatives of every split during the build; None for the negatives that the
            authors released, or those in `negatives_files`.
        negatives_files: Files written by `shine-hf negatives generate`, one per split.
        videos: A folder of videos named `{vid}.mp4` (or .mkv, .webm, …), possibly in subfolders, for the column `video`.
        seed: Seed of the generator.
    """

    generator: str | None = None
    negatives_files: tuple[str, ...] = ()
    videos: str | None = None
    seed: int = 0

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Identify a config by its options and the state of its files, so that a cached build is not reused after a file has changed."""
        files = [*map(Path, self.negatives_files), *(Path(self.data_dir).rglob("*.json*") if self.data_dir else ())]
        stamps = [
            f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in sorted(files) if path.is_file()
        ]
        return super().create_config_id({**config_kwargs, "files": stamps}, custom_features)


class CompositionalNegatives(datasets.GeneratorBasedBuilder):
    """Build rows with the columns of `shine_hf.schema.FEATURES`.

    The original files are read from `data_dir`, or downloaded if it is not given. Their SHA-256 is checked in both cases.

    Args:
        dataset: A name in `shine_hf.data.datasets.DATASETS`, which determines everything else. Subclasses pass it in the class statement.
    """

    BUILDER_CONFIG_CLASS = NegativesConfig
    VERSION = datasets.Version("1.0.0")
    spec: DatasetSpec
    """Metadata of the dataset."""
    ON_DEMAND: tuple[str, ...] = ()
    """Configs that are only built when requested by name, since their files are not always available."""

    def __init_subclass__(cls, dataset: str | None = None, **options):
        super().__init_subclass__(**options)
        if dataset is not None:
            cls.spec = DATASETS[dataset]
            cls.DEFAULT_CONFIG_NAME = cls.spec.default_negatives
            cls.BUILDER_CONFIGS = sorted(
                negatives_configs(), key=lambda config: config.name != cls.DEFAULT_CONFIG_NAME
            )
            cls.ON_DEMAND = () if cls.DEFAULT_CONFIG_NAME == AUTHORS_NEGATIVES else (AUTHORS_NEGATIVES,)

    def _info(self) -> datasets.DatasetInfo:
        features = datasets.Features(FEATURES)
        if self.config.videos:
            features["video"] = datasets.Video(decode=False)
        return datasets.DatasetInfo(features=features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        data_dir, download = self.config.data_dir, dl_manager.download
        # Looked up here and not at import, since tests replace the original files with generated ones.
        spec = DATASETS[self.spec.name]
        rows = {
            split: as_dataset(raw_rows(file.locate(data_dir, download), split), f"{spec.name} {split}").to_list()
            for split, file in spec.originals.items()
        }
        if self.config.negatives_files:
            for file in self.config.negatives_files:
                add_negatives(rows, read_negatives(file), source=file)
        elif self.config.generator:
            rows = generate_for_splits(spec.name, rows, self.config.generator, self.config.seed)
        else:
            path = spec.authors_negatives.locate(data_dir, download)
            add_negatives(rows, read_negatives(path), source=str(path))
            rows["train"] = _validated(rows["train"])
        videos = videos_by_name(self.config.videos, {row["vid"] for split in rows.values() for row in split})
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"rows": _Rows(rows[split]), "videos": videos})
            for split in rows
        ]

    def how_made(self) -> dict:
        """Return how the negatives of this config were made, for its card."""
        from ..negatives.files import read_provenance

        config = self.config
        if config.negatives_files:
            return {"files": {Path(file).name: read_provenance(file) for file in config.negatives_files}}
        if config.generator:
            from ..negatives.language.masking import RATIOS_OF_DATASET
            from ..negatives.language.tagging import Tagger
            from ..version import __version__

            return {
                "generator": config.generator,
                "seed": config.seed,
                "tagger": Tagger().provenance,
                "mask_ratios": list(RATIOS_OF_DATASET[self.spec.name]),
                "cost": "none: no language model",
                "shine_hf_version": __version__,
            }
        source = self.spec.authors_negatives
        return {
            "model": "GPT-3.5 Turbo, queried by the authors of SHINE; the snapshot and the date are not stated",
            "prompt_version": "the authors' prompt; their repository contains no generation script",
            "tagger": "the authors' tagger, not stated",
            "cost": "not stated",
            "released": f"github.com/{source.repository[0]}, {source.path}, commit {source.repository[1]}",
            "flags": "`negative_flags` were added by shine_hf; the texts are as released",
        }

    def _generate_examples(self, rows: _Rows, videos: Mapping[str, str]) -> Iterator[tuple[int, dict]]:
        for index, row in enumerate(rows.rows):
            row = {name: row[name] for name in FEATURES}
            if videos:
                row["video"] = videos[row["vid"]]
            yield index, row


@dataclass
class _Rows:
    """Wrap the rows: `datasets` would interpret a plain list as shards."""

    rows: list[dict] = field(default_factory=list)


def negatives_configs() -> list[NegativesConfig]:
    """Return the configs that every compositional dataset has."""
    return [
        NegativesConfig(
            name=AUTHORS_NEGATIVES, description="the negatives that the authors of SHINE released (train)"
        ),
        NegativesConfig(
            name="lexical",
            generator="lexical",
            description="words that occur together in training queries (all splits)",
        ),
        NegativesConfig(
            name="balanced",
            generator="balanced",
            description="like lexical, with every word about as frequent as in the training queries (all splits)",
        ),
        NegativesConfig(
            name="random",
            generator="random_words",
            description="random words with the same part of speech from the training queries (all splits)",
        ),
    ]


def videos_by_name(folder: str | None, vids: set[str]) -> dict[str, str]:
    """Return vid -> video file in a folder or its subfolders; empty if `folder` is None.

    Raises:
        FileNotFoundError: if the folder does not exist, or lacks videos. The message names all of them.
    """
    if folder is None:
        return {}
    found = {path.stem: str(path) for path in find_videos(folder)}
    missing = sorted(vids - found.keys())
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} of {len(vids)} videos: {', '.join(missing)}")
    return {vid: found[vid] for vid in vids}


def _validated(rows: list[dict]) -> list[dict]:
    """Return the rows with `negative_flags` from the checks in `shine_hf.negatives.validation`."""
    from ..negatives.validation import validate_dataset

    return validate_dataset(datasets.Dataset.from_list(rows, features=FEATURES))[0].to_list()
