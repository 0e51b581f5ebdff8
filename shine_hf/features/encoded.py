"""A cache of encoded sentences in memory-mapped Arrow files, shared by all processes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from ..version import __version__
from .arrow import ArrowArrays, write_arrow

if TYPE_CHECKING:
    from ..encoders import TextEncoder

BATCH_SIZE = 256
# Sentences per file. An interrupted run loses at most this many.
FILE_SIZE = 2048


class EncodedSentences:
    """
    `sentences[text]` -> read-only float32 `(L, dim)`.

    Each sentence is stored under its exact text, in a folder that belongs to one encoder. New sentences are added to the folder, and a
    sentence can never get the features of another one.

    Args:
        encoder: Encodes the sentences that are not stored yet.
        folder: The folder of this encoder. Created if it does not exist.
    """

    def __init__(self, encoder: TextEncoder, folder: str | Path):
        self.encoder, self.folder = encoder, Path(folder)
        self._stored = ArrowArrays(self._files())

    def __contains__(self, text: str) -> bool:
        return text in self._stored

    def __getitem__(self, text: str) -> np.ndarray:
        return self._stored[text]

    def add(self, texts: Iterable[str], progress: bool = True) -> None:
        """Encode and store the sentences that are not stored yet.

        If several processes call this, one encodes and the others wait. A call after an interruption resumes with the next file.

        Args:
            texts: Sentences, in any order.
            progress: Show a progress bar.

        Raises:
            ValueError: for a sentence that cannot be encoded, or a damaged file in the folder.
        """
        wanted = list(dict.fromkeys(texts))
        if all(text in self._stored for text in wanted):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            self._stored = ArrowArrays(self._files())  # Another process may have added them in the meantime.
            # Batches of sentences of similar length need little padding.
            new = sorted((text for text in wanted if text not in self._stored), key=len)
            with tqdm(
                total=len(wanted),
                initial=len(wanted) - len(new),
                desc=f"Encoding with {self.encoder.spec}",
                unit=" texts",
                disable=not (progress and new),
            ) as bar:
                for start in range(0, len(new), FILE_SIZE):
                    self._write(new[start : start + FILE_SIZE], bar)
        self._stored = ArrowArrays(self._files())

    def _write(self, texts: list[str], bar: tqdm) -> None:
        arrays: dict[str, np.ndarray] = {}
        for start in range(0, len(texts), BATCH_SIZE):
            batch = texts[start : start + BATCH_SIZE]
            # Copy: a view would keep the padded batch in memory.
            arrays |= {text: np.array(array, np.float32) for text, array in zip(batch, self.encoder.encode(batch))}
            bar.update(len(batch))
        write_arrow(self.folder / f"{len(self._files()):05d}.arrow", arrays)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.arrow"))


def sentence_folder(encoder: TextEncoder) -> Path | None:
    """Return the cache folder for the sentences of an encoder; None for an encoder without a network.

    The cache is `$HF_HOME/shine_hf`; set `SHINE_HF_CACHE` to put it elsewhere. Its folders may be deleted at any time.
    """
    fingerprint = encoder_fingerprint(encoder)
    if fingerprint is None:
        return None
    from huggingface_hub.constants import HF_HOME

    cache = Path(os.environ.get("SHINE_HF_CACHE") or Path(HF_HOME, "shine_hf")).expanduser()
    return cache / "text_features" / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', encoder.spec)[-80:]}-{fingerprint}"


def encoder_fingerprint(encoder: TextEncoder) -> str | None:
    """Return a digest of an encoder's specification, weights, vocabulary and version; None for an encoder without a network.

    The name of the model would not be enough: the weights in a local folder change when the model is trained again.
    """
    from torch import nn, uint8

    networks = {name: value for name, value in vars(encoder).items() if isinstance(value, nn.Module)}
    if not networks:
        return None
    digest = hashlib.blake2b(f"{__version__} {type(encoder).__qualname__} {encoder.spec}".encode(), digest_size=10)
    for name, network in sorted(networks.items()):
        for key, tensor in network.state_dict().items():
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(uint8).numpy())
    tokenizer = getattr(encoder, "tokenizer", None)
    if tokenizer is not None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
        digest.update(vocabulary.encode())
    return digest.hexdigest()
