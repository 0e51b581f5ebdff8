"""A text encoder that looks up word vectors in a file, e.g. GloVe or word2vec."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .words import WordTextEncoder

logger = logging.getLogger(__name__)

_TABLES = (".npy", ".safetensors")
_VOCABULARY_SUFFIXES = (".txt", ".vocab", ".json")


class VectorsTextEncoder(WordTextEncoder):
    """One vector per word of the query, looked up in a table.

    Words are looked up in lower case. A word that is not in the table gets the mean of all vectors, as the authors of GloVe recommend.

    Args:
        path (`str`): A text file with a word and its numbers on each line, as GloVe and word2vec write it (also `.gz`; a first line with the
            two sizes is skipped); or a table `(words, dim)` as `.npy` or `.safetensors` with a vocabulary.
        vocabulary (`str`, *optional*): Name of a file in the folder of the table: one word per line, or a JSON list, or a JSON dictionary
            word -> row. The default is the table's name, with or without a suffix such as `_f16`, with the extension `.txt`, `.vocab` or
            `.json`.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that is not such a table.
    """

    def __init__(self, path: str, vocabulary: str | None = None):
        self.path, self.vocabulary = Path(path).expanduser(), vocabulary
        if not self.path.is_file():
            raise FileNotFoundError(f"no file of word vectors {self.path}")
        if self.path.suffix in _TABLES:
            self._vectors = _read_table(self.path)
            words = _read_vocabulary(self._vocabulary_path())
            if len(words) != len(self._vectors):
                raise ValueError(
                    f"{self.path} has {len(self._vectors):,} rows, but its vocabulary {self._vocabulary_path()} has {len(words):,} words"
                )
        elif vocabulary:
            raise ValueError(f"{self.path} is a text file that contains the words; remove the option vocabulary")
        else:
            words, self._vectors = _read_text(self.path)
        # If a word occurs several times, e.g. with different capitalization, the first is the most frequent.
        self._rows: dict[str, int] = {}
        for row, word in enumerate(words):
            self._rows.setdefault(word.lower(), row)
        # The vector of words that are not in the table.
        self.mean = self._vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.dim = self._vectors.shape[1]
        self._missed: set[str] = set()

    @property
    def spec(self) -> str:
        return f"vectors:{self.path}" + (f",vocabulary={self.vocabulary}" if self.vocabulary else "")

    def vector(self, word: str) -> np.ndarray:
        row = self._rows.get(word)
        if row is not None:
            return self._vectors[row].astype(np.float32)
        if word not in self._missed:
            self._missed.add(word)
            logger.info("%s has no vector for %r; using the mean of all vectors", self.path.name, word)
        return self.mean

    def _vocabulary_path(self) -> Path:
        if self.vocabulary:
            if Path(self.vocabulary).name != self.vocabulary:
                raise ValueError(f"vocabulary={self.vocabulary}: pass the name of a file in {self.path.parent}")
            return self.path.with_name(self.vocabulary)
        stems = [self.path.stem, self.path.stem.rpartition("_")[0]]
        candidates = [self.path.with_name(stem + suffix) for stem in stems if stem for suffix in _VOCABULARY_SUFFIXES]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise FileNotFoundError(
            f"no vocabulary for {self.path}: neither {' nor '.join(path.name for path in candidates)} exists in its folder; "
            f"name the file: vectors:{self.path.name},vocabulary=NAME"
        )


def _read_table(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        table = np.load(path, allow_pickle=False, mmap_mode="r")
    else:
        from safetensors.numpy import load_file

        tensors = load_file(path)
        if len(tensors) != 1:
            raise ValueError(f"{path} must contain a single table of vectors; found {', '.join(tensors) or 'nothing'}")
        (table,) = tensors.values()
    if table.ndim != 2 or table.dtype.kind != "f" or not table.size:
        raise ValueError(
            f"{path} contains an array of shape {table.shape} and type {table.dtype}; expected floats (words, dim)"
        )
    return table


def _read_vocabulary(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary {path}")
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        # Not `splitlines`, which also splits at other separators.
        return [line.rstrip("\r") for line in text.rstrip("\n").split("\n")]
    words = json.loads(text)
    return sorted(words, key=words.get) if isinstance(words, dict) else list(words)


def _read_text(path: Path) -> tuple[list[str], np.ndarray]:
    words, rows, dim = [], [], None
    for number, line in enumerate(_lines(path), start=1):
        if number == 1 and len(sizes := line.split()) == 2 and all(size.isdigit() for size in sizes):
            continue  # word2vec files begin with the number of words and the width.
        # Some words of GloVe 840B contain spaces, so count the numbers from the end.
        parts = line.rstrip().split(" ")
        dim = dim or len(parts) - 1
        try:
            if dim < 1 or len(parts) <= dim:
                raise ValueError
            rows.append(np.array(parts[-dim:], dtype=np.float32))
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected a word and {dim} numbers, got {line[:60]!r}") from None
        words.append(" ".join(parts[:-dim]))
    if not words:
        raise ValueError(f"{path} contains no word vectors")
    return words, np.stack(rows)


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; convert binary word2vec files to text") from error
