"""The public files that the datasets are built from: pinned to a commit and checked by SHA-256, downloaded or read from a folder."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

COMPOSITIONAL_REPOSITORY = ("YYJMJC/Compositional-Temporal-Grounding", "2372337e9166b8e26b83ce936a8474c6ae127290")
SHINE_REPOSITORY = ("zxccade/SHINE", "bf8b5986caff796fffea62f7f1e5753bbc86b0f5")


@dataclass(frozen=True)
class SourceFile:
    """One file of a public repository.

    Args:
        repository: `owner/name` on GitHub and the commit.
        path: Where it stands in the repository.
        local: Where it stands under a data folder, plain or with `.gz` added.
        sha256: Of the unpacked content; None where it could not be recorded (its rows are compared with the annotations anyhow).
    """

    repository: tuple[str, str]
    path: str
    local: str
    sha256: str | None

    @property
    def url(self) -> str:
        name, commit = self.repository
        return f"https://raw.githubusercontent.com/{name}/{commit}/{self.path}"

    def locate(self, data_dir: str | Path | None, download: Callable[[str], str]) -> Path:
        """The file, from the data folder or else by `download(url)`, checked.

        Raises:
            FileNotFoundError: where it is not in the folder, or could not be downloaded. ValueError: for other content than recorded.
        """
        if data_dir is None:
            try:
                path = Path(download(self.url))
            except (OSError, ValueError) as error:
                raise FileNotFoundError(
                    f"{self.url} could not be downloaded ({type(error).__name__}: {error}). Give the folder that holds {self.local} "
                    "with --data-dir"
                ) from error
        else:
            plain = Path(data_dir) / self.local
            path = next((p for p in (plain, plain.with_name(f"{plain.name}.gz")) if p.is_file()), None)
            if path is None:
                raise FileNotFoundError(f"no file {plain} (nor {plain.name}.gz). It is public: {self.url}")
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


def _splits(folder: str, local: str, sha256: dict[str, str]) -> dict[str, SourceFile]:
    return {
        split: SourceFile(COMPOSITIONAL_REPOSITORY, f"{folder}/{split}.json", f"{local}/{split}.json", digest)
        for split, digest in sha256.items()
    }


ANNOTATIONS = {
    "charades_cg": _splits(
        "Charades-CG",
        "charades_cg",
        {
            "train": "c66556077d8b6a1fd7ee91641f994cd1341c11adfa4fc078434c9fe7a4b93d8d",
            "test_trivial": "45eec9d3c46187235309344ab937a065b409cbdc3f3f9d926da6fd05302d822d",
            "novel_composition": "c92beda2c861bb0da356d94bba131d49e20a59d893d6e182bda1ee68a852514d",
            "novel_word": "f3ccd59c9f18e221028138faaf9bdddb5215e2550215ca62c8f24659168eb7f3",
        },
    ),
    "activitynet_cg": _splits(
        "ActivityNet_CG",
        "activitynet_cg",
        {
            "train": "31a6e0aa938f1f0d469bcb8d5492de7f9e9f77f74ba5676772db052057e26102",
            "test_trivial": "32c4d12ff1cdf35f4b48cf4d93bbb2c71beb802d693f57e0afc90347aaa937a4",
            "novel_composition": "d44d2c456974a4661bf14008d6316926e3b04d7ab9d48ed694861dc28602fe1b",
            "novel_word": "74e071738ece6d75ab1237c04a9a8cdebc939d3d65b015181596a84ae14f782c",
        },
    ),
}

AUTHORS_NEGATIVES = {
    "charades_cg": SourceFile(
        SHINE_REPOSITORY,
        "data/charades_cg/charades_cg_gpt_train.jsonl",
        "shine/charades_cg/charades_cg_gpt_train.jsonl",
        "c9910e41283771ec42193810ff35a3b6f37803f0c3c617263f113fcaac35d685",
    ),
    "activitynet_cg": SourceFile(
        SHINE_REPOSITORY,
        "data/anet_cg/anet_cg_gpt_train.jsonl",
        "shine/anet_cg/anet_cg_gpt_train.jsonl",
        None,
    ),
}
