"""Public files: pinned to a commit and checked by SHA-256, downloaded or read from a folder."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .text_files import locate


@dataclass(frozen=True)
class SourceFile:
    """One file of a public repository.

    Args:
        repository: `owner/name` on GitHub and the commit.
        path: Where the file is in the repository.
        local: Where it is under a data folder, plain or with `.gz` added.
        sha256: Of the unpacked content; None where it could not be recorded (its rows are compared with the annotations anyway).
    """

    repository: tuple[str, str]
    path: str
    local: str
    sha256: str | None

    @property
    def url(self) -> str:
        """Where the file can be downloaded."""
        name, commit = self.repository
        return f"https://raw.githubusercontent.com/{name}/{commit}/{self.path}"

    def find(self, data_dir: str | Path) -> Path:
        """Return the file in a data folder, unchecked.

        Raises:
            FileNotFoundError: where it is not there; says where to get it.
        """
        try:
            return locate(Path(data_dir) / self.local)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}. It is public: {self.url}") from None

    def locate(self, data_dir: str | Path | None, download: Callable[[str], str]) -> Path:
        """Return the file, from the data folder or else by `download(url)`, checked.

        Raises:
            FileNotFoundError: where it is not in the folder, or could not be downloaded. ValueError: for other content than recorded.
        """
        if data_dir is not None:
            path = self.find(data_dir)
        else:
            try:
                path = Path(download(self.url))
            except (OSError, ValueError) as error:
                raise FileNotFoundError(
                    f"{self.url} could not be downloaded ({type(error).__name__}: {error}). Give the folder that holds {self.local} "
                    "with --data-dir"
                ) from error
        self._check(path)
        return path

    def _check(self, path: Path) -> None:
        if self.sha256 is None:
            return
        content = path.read_bytes()
        found = hashlib.sha256(gzip.decompress(content) if path.suffix == ".gz" else content).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{path}: its SHA-256 is {found}, but {self.path} of {self.repository[0]} at {self.repository[1][:7]} has {self.sha256}"
            )
