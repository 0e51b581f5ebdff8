"""Public files that are downloaded or read from a folder, pinned to a commit and checked by SHA-256."""

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
        repository: `owner/name` on GitHub, and the commit.
        path: Path in the repository.
        local: Path in a data folder; the file may also be gzipped, with `.gz` added.
        sha256: SHA-256 of the uncompressed content; None if it is not known.
    """

    repository: tuple[str, str]
    path: str
    local: str
    sha256: str | None

    @property
    def url(self) -> str:
        """Download URL of the file."""
        name, commit = self.repository
        return f"https://raw.githubusercontent.com/{name}/{commit}/{self.path}"

    def find(self, data_dir: str | Path) -> Path:
        """Return the file in a data folder, without checking it.

        Raises:
            FileNotFoundError: if it is missing. The message says where to get it.
        """
        try:
            return locate(Path(data_dir) / self.local)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}. Download it from {self.url}") from None

    def locate(self, data_dir: str | Path | None, download: Callable[[str], str]) -> Path:
        """Return the file from the data folder, or download it if there is no folder, and check it.

        Args:
            data_dir: The data folder; None to download.
            download: Downloads a URL and returns the path of the file.

        Raises:
            FileNotFoundError: if it is missing or cannot be downloaded.
            ValueError: if its SHA-256 differs.
        """
        if data_dir is not None:
            path = self.find(data_dir)
        else:
            try:
                path = Path(download(self.url))
            except (OSError, ValueError) as error:
                raise FileNotFoundError(
                    f"{self.url} could not be downloaded ({type(error).__name__}: {error}). Pass the folder that contains {self.local} "
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
