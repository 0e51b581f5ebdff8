"""What is kept of a run in the repository: a JSON with its settings, metrics, validation curve and the result of every test query.

With these records, the tables can be made again and seeds can be added on a machine that does not have the folder of the run. The order of the queries is the same for all
runs of a study, so their names are stored once, in `queries.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shine_hf.io import atomic_file

QUERIES_FILE = "queries.json"
# IoUs are stored in this fraction, rounded down, so that no moment passes a threshold that it has missed.
_IOU_UNIT = 10_000
_ROUNDING = 1e-9  # A recorded value that is recorded again stays the same.
_MISSING = "-"


@dataclass(frozen=True)
class Run:
    """
    A finished run: its metrics (`{split}_{metric}`), steps and R1@0.5 on the validation split, and split -> the result of every query.

    A query has a `qid`, a `vid`, the `iou` of its first moment, and as `saliency` the ranks of the saliency under the query, level 1, 2, … and the irrelevant query. Records that
    were written before the queries were kept have no `queries`.
    """

    variant: str
    seed: int
    results: Mapping[str, float]
    curve: Sequence[Sequence[float]]
    queries: Mapping[str, Sequence[dict]]


def record_path(results: Path, variant: str, seed: int) -> Path:
    """Return the path of the record of a run in the folder of a study's results."""
    return results / "runs" / f"{variant}_seed{seed}.json"


def write_record(results: Path, run: Run, features: str, settings: Mapping) -> None:
    """Write the record of a run to the folder of a study's results.

    Raises:
        ValueError: if the run was evaluated on other queries than the records that are there.
    """
    path = record_path(results, run.variant, run.seed)
    names = {split: [[query["qid"], query["vid"]] for query in queries] for split, queries in run.queries.items()}
    known = results / QUERIES_FILE
    if known.is_file() and json.loads(known.read_text(encoding="utf-8")) != names:
        raise ValueError(
            f"{path.stem} was evaluated on other queries than the records in {results}: remove that folder"
        )
    with atomic_file(known) as file:
        file.write(json.dumps(names) + "\n")
    content = {
        "variant": run.variant,
        "seed": run.seed,
        "features": features,
        "settings": settings,
        "results": run.results,
        "curve": run.curve,
        "queries": {split: _pack(queries) for split, queries in run.queries.items()},
    }
    # The folder of the run may be gone, so a failure must not destroy its record.
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=1) + "\n")


def read_record(results: Path, variant: str, seed: int) -> tuple[Run, dict] | None:
    """Return a recorded run and its settings (empty if they were not recorded), or None if there is no record.

    Raises:
        ValueError: if the queries of the record do not fit `queries.json`.
    """
    path, names = record_path(results, variant, seed), results / QUERIES_FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    known = json.loads(names.read_text(encoding="utf-8")) if names.is_file() else {}
    try:
        queries = {split: _unpack(packed, known[split]) for split, packed in content.get("queries", {}).items()}
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: its queries do not fit {names}: restore both from git, or remove the record to train the run again"
        ) from error
    run = Run(variant, seed, content["results"], content["curve"], queries)
    return run, content.get("settings", {})


def as_recorded(queries: Sequence[Mapping]) -> list[dict]:
    """Return the results of queries with the precision of a record, so that tables are the same with and without the folder of the run."""
    return _unpack(_pack(queries), [[query["qid"], query["vid"]] for query in queries])


def _pack(queries: Sequence[Mapping]) -> dict[str, str]:
    """Return the results of queries as text of about ten characters per query."""
    return {
        "iou": " ".join(str(math.floor(query["iou"] * _IOU_UNIT + _ROUNDING)) for query in queries),
        "saliency_ranks": " ".join(_ranks(query["saliency"]) for query in queries),
    }


def _unpack(packed: Mapping[str, str], names: Sequence[Sequence[str]]) -> list[dict]:
    columns = zip(names, packed["iou"].split(), packed["saliency_ranks"].split(), strict=True)
    return [
        {
            "qid": qid,
            "vid": vid,
            "iou": int(iou) / _IOU_UNIT,
            "saliency": [None if rank == _MISSING else int(rank) for rank in ranks],
        }
        for (qid, vid), iou, ranks in columns
    ]


def _ranks(saliency: Sequence[float | None]) -> str:
    """Return a digit per value, higher for more saliency, equal for the same saliency."""
    order = sorted({value for value in saliency if value is not None})
    return "".join(_MISSING if value is None else str(order.index(value)) for value in saliency)
