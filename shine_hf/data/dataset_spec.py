"""Metadata of a dataset: its files, features, source and license."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from .sources import SourceFile
from .text_files import locate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetSpec:
    """The metadata of one dataset.

    Args:
        name: The name that users type.
        title: The display name.
        description: One or two sentences about the dataset.
        files: Split -> accepted file names in the data folder, starting with the original name.
        queries: Split -> number of queries in the original files.
        clip_length: Seconds per clip of the usual features.
        features: Description of these features.
        source: Where the annotations are published.
        license: License of the annotations, or "not stated".
        videos: Where the videos come from, and who owns them.
        citation: BibTeX.
        default_negatives: The default source of negatives: `gpt-3.5-turbo`, `lexical` or None.
        authors_negatives: The training negatives that the authors of SHINE released.
        hub_id: Hub repository of the dataset with negatives.
        originals: Split -> the original file, pinned to a commit, if available.
        known_faults: Problems of the annotations to mention on the card, in addition to those that are counted automatically.
    """

    name: str
    title: str
    description: str
    files: Mapping[str, tuple[str, ...]]
    queries: Mapping[str, int]
    clip_length: float
    features: str
    source: str
    license: str
    videos: str
    citation: str
    default_negatives: str | None = None
    authors_negatives: SourceFile | None = None
    hub_id: str | None = None
    originals: Mapping[str, SourceFile] = field(default_factory=lambda: MappingProxyType({}))
    known_faults: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.files)

    def find_files(self, data_dir: str | Path) -> dict[str, Path]:
        """Return split -> file in a data folder, or in its subfolder with the name of the dataset.

        Raises:
            FileNotFoundError: if there are no files, or one of a dataset with `originals` is missing. The message says where to get it.
        """
        if not Path(data_dir).is_dir():
            raise FileNotFoundError(f"{self.title}: no folder {data_dir} (--data-dir)")
        found = {split: path for split in self.files if (path := self._find(split, Path(data_dir)))}
        missing = [split for split in self.files if split not in found]
        if missing and (self.originals or not found):
            names = self.files[missing[0]]
            alternatives = f", nor {' or '.join(names[1:])}" if names[1:] else ""
            raise FileNotFoundError(
                f"{self.title}: no {names[0]}{alternatives} in {Path(data_dir) / self.name} or {data_dir}. Download the file of "
                f"the split {missing[0]}: {self.originals[missing[0]].url if self.originals else self.source}"
            )
        for split in missing:
            logger.warning(
                "%s: no %s in %s, so there is no split %s", self.title, self.files[split][0], data_dir, split
            )
        return found

    def _find(self, split: str, data_dir: Path) -> Path | None:
        for folder in (data_dir / self.name, data_dir):
            for name in self.files[split]:
                try:
                    return locate(folder / name)
                except FileNotFoundError:
                    continue
        return None
