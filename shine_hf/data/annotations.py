"""Readers of annotation files: the original Charades-CG and ActivityNet-CG JSONs, the authors' jsonl, and the common jsonl format."""

from __future__ import annotations

import gzip
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, List, Value

from ..schema import FEATURES, annotation_flags, check_rows

logger = logging.getLogger(__name__)

SPLITS = ("train", "test_trivial", "novel_composition", "novel_word")
# What the authors' qids call the splits.
QID_INFIX = {"train": "train", "test_trivial": "test", "novel_composition": "composition", "novel_word": "word"}
AUTHORS_CACHE = "gpt-3.5-turbo"

# Columns of the common jsonl format that only some benchmarks have: QVHighlights' graded saliency.
OPTIONAL_FEATURES = {
    "relevant_clip_ids": List(Value("int64")),
    "saliency_scores": List(List(Value("float64"))),
}


@dataclass(frozen=True)
class CompositionalDataset:
    """Where the files of a dataset stand under the data folder, and which source of negatives is the default."""

    folder: str
    cache_file: str
    default_negatives: str | None


COMPOSITIONAL_DATASETS = {
    "charades_cg": CompositionalDataset("charades_cg", "shine/charades_cg/charades_cg_gpt_train.jsonl", AUTHORS_CACHE),
    # The authors' negatives for ActivityNet-CG exist (in their repository) but are not at hand everywhere.
    "activitynet_cg": CompositionalDataset("activitynet_cg", "shine/anet_cg/anet_cg_gpt_train.jsonl", None),
}


def read_compositional(dataset: str, data_dir: str | Path, negatives: str | None = None) -> dict[str, Dataset]:
    """All splits of a compositional dataset from its original files.

    Args:
        dataset: `charades_cg` or `activitynet_cg` (github.com/YYJMJC/Compositional-Temporal-Grounding).
        data_dir: Folder with `charades_cg/*.json` or `activitynet_cg/*.json`, and `shine/…` for the authors' negatives
            (github.com/zxccade/SHINE); each file may be gzipped.
        negatives: `gpt-3.5-turbo` for the authors' released negatives, a `.parquet` or `.jsonl` file of `shine-hf negatives
            generate`, or `none`; the dataset's default if left out.

    Returns:
        Split name -> rows in the columns of [`FEATURES`].

    Raises:
        FileNotFoundError: for a missing file. ValueError: for an unknown dataset or source, or rows that break the schema.
    """
    if dataset not in COMPOSITIONAL_DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; choose one of {', '.join(COMPOSITIONAL_DATASETS)}")
    files, data_dir = COMPOSITIONAL_DATASETS[dataset], Path(data_dir)
    negatives = negatives or files.default_negatives or "none"
    splits = {split: list(compositional_rows(data_dir / files.folder / f"{split}.json", split)) for split in SPLITS}
    if negatives != "none":
        path = data_dir / files.cache_file if negatives == AUTHORS_CACHE else Path(negatives)
        if negatives != AUTHORS_CACHE and path.suffix not in (".parquet", ".jsonl"):
            raise ValueError(
                f"unknown negatives {negatives!r}: {AUTHORS_CACHE} (the authors' file), none, or a .parquet or .jsonl file written by "
                "`shine-hf negatives generate`"
            )
        add_negatives(splits, read_negatives(path), source=str(path))
    for split, rows in splits.items():
        check_rows(rows, source=f"{dataset} {split}")
    return {split: Dataset.from_list(rows, features=FEATURES) for split, rows in splits.items()}


def compositional_rows(path: Path, split: str) -> Iterator[dict]:
    """Rows of one original JSON: `{vid: {"sentences", "timestamps", "duration", ["novels" | "news"]}}`, in the file's order."""
    for vid, video in _json_object(path).items():
        try:
            sentences, timestamps, duration = video["sentences"], video["timestamps"], float(video["duration"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, video {vid!r}: `sentences`, `timestamps` and `duration` are needed ({error!r})"
            ) from error
        compositions = video.get("novels") or video.get("news") or [{}] * len(sentences)
        if not len(sentences) == len(timestamps) == len(compositions):
            raise ValueError(
                f"{path}, video {vid!r}: {len(sentences)} sentences, {len(timestamps)} timestamps and {len(compositions)} "
                "compositions; there must be as many of each"
            )
        for index, (query, window, composition) in enumerate(zip(sentences, timestamps, compositions)):
            # Novel compositions are pairs of words, novel words stand alone.
            pairs = [
                (kind, [words] if isinstance(words, str) else list(words))
                for kind, found in composition.items()
                for words in found
            ]
            yield {
                "qid": f"{vid}_{QID_INFIX[split]}_{index}",
                "vid": vid,
                "query": query.strip(),
                "duration": duration,
                "relevant_windows": [[float(value) for value in window]],
                "masked_queries": [],
                "negative_queries": [],
                "negative_flags": [],
                "annotation_flags": annotation_flags(duration, [window]),
                "composition_types": [kind for kind, _ in pairs],
                "composition_words": [words for _, words in pairs],
            }


def read_negatives(path: Path) -> dict[str, Mapping]:
    """qid -> row with `query`, `masked_queries`, `negative_queries` and `negative_flags`: the authors' jsonl, or our own export.

    Raises:
        FileNotFoundError: for a missing file. ValueError: for a qid that comes twice.
    """
    if path.suffix == ".parquet":
        if not path.is_file():
            raise FileNotFoundError(f"no file of negatives at {path}")
        rows = Dataset.from_parquet(str(path), keep_in_memory=True).to_list()
    else:
        rows = [row for _, row in _jsonl_objects(path)]
    table = {}
    for row in rows:
        queries = row.get("negative_queries") or row.get("recomposed_queries") or []
        if row["qid"] in table:
            raise ValueError(f"{path}: qid {row['qid']!r} comes twice")
        table[row["qid"]] = {
            "query": row["query"].strip(),
            "masked_queries": row.get("masked_queries") or [],
            "negative_queries": queries,
            "negative_flags": row.get("negative_flags") or [[] for _ in queries],
        }
    return table


def add_negatives(splits: dict[str, list[dict]], table: dict[str, Mapping], source: str) -> None:
    """Put negatives into the rows they belong to, in place.

    Raises:
        ValueError: where a row of negatives belongs to another sentence than the annotation of that qid, or to none at all.
    """
    # Qids are unique in a file; two files may both count from 1.
    rows = defaultdict(list)
    for split in splits.values():
        for row in split:
            rows[row["qid"]].append(row)
    for qid, negatives in table.items():
        if qid not in rows:
            raise ValueError(f"{source}: qid {qid!r} is in none of the annotation files")
        same = [row for row in rows[qid] if row["query"] == negatives["query"]]
        if not same:
            raise ValueError(
                f"{source}: qid {qid!r} belongs to {negatives['query']!r} there, but to {rows[qid][0]['query']!r} in the annotations"
            )
        for row in same:
            row.update(negatives)
    for name, split in splits.items():
        with_negatives = sum(row["query"] == table[row["qid"]]["query"] for row in split if row["qid"] in table)
        if 0 < with_negatives < len(split):
            logger.warning(
                "%s has negatives for %d of the %d rows of %s", source, with_negatives, len(split), name or "the file"
            )


def read_jsonl(path: str | Path) -> Dataset:
    """The common jsonl format of the field: one object a line with `qid`, `vid`, `query`, `duration`, `relevant_windows`.

    Charades-STA, ActivityNet Captions, TACoS and QVHighlights (several windows, graded saliency) come in it; so can your own data.
    Columns of the schema that are left out are empty; `relevant_clip_ids` and `saliency_scores` are kept where they are.

    Raises:
        FileNotFoundError: for a missing file. ValueError: for a line that is no object, or rows that break the schema.
    """
    path, rows, optional = Path(path), [], set()
    for number, raw in _jsonl_objects(path):
        try:
            windows = [[float(value) for value in window] for window in raw.get("relevant_windows") or []]
            row = {
                "qid": str(raw["qid"]),
                "vid": raw["vid"],
                "query": raw["query"].strip(),
                "duration": float(raw["duration"]),
                "relevant_windows": windows,
                "annotation_flags": raw.get("annotation_flags") or annotation_flags(float(raw["duration"]), windows),
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            missing = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}, line {number}: {missing}") from error
        row["negative_queries"] = raw.get("negative_queries") or raw.get("recomposed_queries") or []
        for name in FEATURES:
            row.setdefault(name, raw.get(name) or [])
        for name in OPTIONAL_FEATURES.keys() & raw.keys():
            optional.add(name)
            row[name] = raw[name]
        rows.append(row)
    check_rows(rows, source=str(path))
    features = Features({**FEATURES, **{name: OPTIONAL_FEATURES[name] for name in sorted(optional)}})
    return Dataset.from_list([{name: row.get(name) for name in features} for row in rows], features=features)


def _json_object(path: Path) -> dict:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not an object, but a {type(content).__name__}")
    return content


def _jsonl_objects(path: Path) -> Iterator[tuple[int, dict]]:
    """Line number and object of each non-empty line."""
    # Not splitlines: it also splits at separators that may stand inside a JSON string.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not an object, but a {type(row).__name__}")
        yield number, row


def _read_text(path: Path) -> str:
    """A file, or its gzipped form beside it."""
    path = Path(path)
    packed = path.with_name(f"{path.name}.gz")
    if path.is_file() and path.suffix != ".gz":
        return path.read_text(encoding="utf-8")
    for candidate in (path, packed):
        if candidate.is_file():
            with gzip.open(candidate, "rt", encoding="utf-8") as file:
                return file.read()
    raise FileNotFoundError(
        f"no annotation file {path} (nor {packed.name}). The originals are at "
        "github.com/YYJMJC/Compositional-Temporal-Grounding, the authors' negatives at github.com/zxccade/SHINE"
    )
