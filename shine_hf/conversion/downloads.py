"""The downloads that are needed to reproduce the paper: where each is published, its layout, and which of its files are missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.dataset_spec import DatasetSpec
from ..data.datasets import DATASETS
from ..features.base import FeatureStore

SPLITS = ("test_trivial", "novel_composition", "novel_word")
SHINE_PAGE = "the README of https://github.com/zxccade/SHINE"


@dataclass(frozen=True)
class Release:
    """The files that belong to one benchmark of the paper.

    Args:
        dataset: Metadata of the benchmark.
        annotations: Split -> accepted file names: the authors' jsonl, and the original JSON.
        annotations_from, video_from: Where the annotations and the video features are published.
        video_kind: `i3d` for one `.npy` file per video, or `hdf5` for a single file.
        video_file: Name of the HDF5 file.
        round_to_clip_length: Whether the authors' evaluation rounds moments to multiples of the clip length.
    """

    dataset: DatasetSpec
    annotations: Mapping[str, tuple[str, ...]]
    annotations_from: str
    video_from: str
    video_kind: str
    video_file: str
    round_to_clip_length: bool


def _annotation_names(prefix: str) -> dict[str, tuple[str, ...]]:
    authors = {"test_trivial": "test", "novel_composition": "novel_composition", "novel_word": "novel_word"}
    return {split: (f"{prefix}_{authors[split]}.jsonl", f"{split}.json") for split in SPLITS}


RELEASES = {
    "charades_cg": Release(
        dataset=DATASETS["charades_cg"],
        annotations=_annotation_names("charades_cg"),
        annotations_from="data/charades_cg of https://github.com/zxccade/SHINE, or Charades-CG of "
        "https://github.com/YYJMJC/Compositional-Temporal-Grounding",
        video_from="the I3D features of Charades of https://github.com/26hzhang/VSLNet",
        video_kind="i3d",
        video_file="",
        round_to_clip_length=True,
    ),
    "activitynet_cg": Release(
        dataset=DATASETS["activitynet_cg"],
        annotations=_annotation_names("anet_cg"),
        annotations_from="data/anet_cg of https://github.com/zxccade/SHINE, or ActivityNet_CG of "
        "https://github.com/YYJMJC/Compositional-Temporal-Grounding",
        video_from="the C3D features of https://github.com/microsoft/VideoX/tree/master/MS-2D-TAN",
        video_kind="hdf5",
        video_file="activitynet_c3d_fc6_stride_1s.hdf5",
        round_to_clip_length=False,
    ),
}


def find_checkpoint(where: Path) -> Path:
    """Return a checkpoint: `where` if it is a file, else the only `.ckpt` in it (or `model_best.ckpt`), else the only `.pth` or `.pt`.

    Raises:
        FileNotFoundError: if there is none. ValueError: if there are several.
    """
    if where.is_file():
        return where
    found = next((paths for kind in ("ckpt", "pth", "pt") if (paths := sorted(where.rglob(f"*.{kind}")))), [])
    best = [path for path in found if path.name == "model_best.ckpt"]
    chosen = best or found
    if not chosen:
        raise FileNotFoundError(
            f"no checkpoint (*.ckpt) in {where}. The authors' checkpoints are linked from {SHINE_PAGE}"
        )
    if len(chosen) > 1:
        raise ValueError(f"{where} contains several checkpoints; name one of them: {', '.join(map(str, chosen[:5]))}")
    return chosen[0]


def find_annotations(release: Release, where: Path) -> dict[str, Path]:
    """Return split -> annotation file.

    Raises:
        FileNotFoundError: if splits are missing. The message names all of them.
    """
    found = {}
    for split, names in release.annotations.items():
        candidates = [folder / name for name in (*names, *(f"{n}.gz" for n in names)) for folder in folders(where)]
        found[split] = next((path for path in candidates if path.is_file()), None)
    missing = [" or ".join(release.annotations[split]) for split, path in found.items() if path is None]
    if missing:
        raise FileNotFoundError(f"{where} lacks {', '.join(missing)}. Get {release.annotations_from}")
    return {split: path for split, path in found.items() if path is not None}


def find_video_features(release: Release, where: Path, vids: Sequence[str]) -> Path:
    """Return the folder or file of the video features.

    Raises:
        FileNotFoundError: if a video of the annotations has no features. The message says how many and names some.
    """
    if release.video_kind == "hdf5":
        path = where if where.is_file() else _find_hdf5(where, release.video_file)
        if path is None:
            raise FileNotFoundError(f"no {release.video_file} in {where}. Get {release.video_from}")
        store = FeatureStore.from_spec(f"hdf5:{path}")
        _check_missing(path, [vid for vid in vids if vid not in store], len(vids), "videos", release.video_from)
        return path
    return find_folder(where, [f"{vid}.npy" for vid in vids], "videos", release.video_from)


def _find_hdf5(where: Path, name: str) -> Path | None:
    """Return the HDF5 file with this name in a folder or below it, else the only one with another name."""
    found = [path for folder in folders(where) for path in sorted(folder.iterdir()) if path.suffix in (".hdf5", ".h5")]
    named = [path for path in found if path.name == name]
    return named[0] if named else found[0] if len(found) == 1 else None


def find_text_features(where: Path, qids: Sequence[str]) -> Path:
    """Return the folder of the text features, a file `{qid}.npz` per query.

    Raises:
        FileNotFoundError: if a query has no features. The message says how many and names some.
    """
    source = f"the text features that are linked from {SHINE_PAGE}"
    return find_folder(where, [f"{qid}.npz" for qid in qids], "queries", source)


def find_folder(where: Path, names: Sequence[str], what: str, source: str) -> Path:
    """Return the folder that contains files with these names: `where` itself or a folder below it.

    Raises:
        FileNotFoundError: if not all of them are there.
    """
    folder = next((f for f in folders(where) if any((f / name).is_file() for name in names[:50])), None)
    if folder is None:
        raise FileNotFoundError(
            f"no features in {where}: there is neither {names[0]} nor a file for any other of the {what}. Get {source}"
        )
    _check_missing(folder, [name for name in names if not (folder / name).is_file()], len(names), what, source)
    return folder


def folders(where: Path, depth: int = 3) -> Iterator[Path]:
    """Yield a folder and those below it, the nearest first."""
    level = [where] if where.is_dir() else []
    for _ in range(depth + 1):
        yield from level
        level = sorted(itertools.chain.from_iterable((p for p in f.iterdir() if p.is_dir()) for f in level))


def _check_missing(where: Path, missing: Sequence[str], total: int, what: str, source: str) -> None:
    if missing:
        examples = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise FileNotFoundError(f"{where} lacks {len(missing):,} of {total:,} {what}: {examples}. Get {source}")
