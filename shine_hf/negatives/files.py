"""Read and write the record of how a file of negatives was generated, `FILE.provenance.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io import atomic_file


def provenance_path(path: str | Path) -> Path:
    """Return the path of the provenance file of `path`."""
    return Path(path).with_name(Path(path).name + ".provenance.json")


def write_provenance(path: str | Path, provenance: Mapping[str, Any]) -> None:
    """Record how the rows of `path` were generated in its provenance file."""
    with atomic_file(provenance_path(path)) as file:
        file.write(json.dumps(provenance, indent=2, ensure_ascii=False) + "\n")


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Return the record of how the rows of `path` were generated; empty if unknown."""
    file = provenance_path(path)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
