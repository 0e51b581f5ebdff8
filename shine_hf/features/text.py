"""Token features of queries and their negatives: encoded on the fly, or from a store keyed by qid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from tqdm.auto import tqdm

from ..encoders import TextEncoder, is_text_encoder_spec, text_encoder
from .base import FeatureStore

BATCH_SIZE = 256


class TextFeatures:
    """
    `text_features(query=…, qid=…, level=…)` -> float32 `(L, dim)`. `level` is None for the query of the row, else the level of its negative,
    counted from 1.
    """

    dim: int
    public_spec: str
    """What may be told about the features on cards and in configurations: their encoder, else the kind of store without the path."""

    @staticmethod
    def from_spec(spec: str) -> TextFeatures:
        """`words:[options]` or `clip:MODEL` encode on the fly; `npz:DIR`, `hdf5:FILE`, … read a store keyed by qid.

        Raises:
            ValueError: for an unknown kind. FileNotFoundError: where the folder or file does not exist.
        """
        if is_text_encoder_spec(spec):
            return EncodedText(text_encoder(spec))
        return StoredText(FeatureStore.from_spec(spec))

    def __call__(self, *, query: str, qid: str, level: int | None = None) -> np.ndarray:
        raise NotImplementedError

    def prefetch(self, queries: Iterable[str], progress: bool = True) -> None:
        """Encode sentences in batches before they are asked for one by one. Stored features need none of that."""


class StoredText(TextFeatures):
    """Features from a store. The authors name a query's features by its qid, those of its negatives `{qid}_recomposed_gpt_{0,1,2}`."""

    def __init__(self, store: FeatureStore):
        self.store = store

    @property
    def dim(self) -> int:
        return self.store.dim

    @property
    def public_spec(self) -> str:
        return self.store.public_spec

    def __call__(self, *, query: str, qid: str, level: int | None = None) -> np.ndarray:
        return self.store[qid if level is None else f"{qid}_recomposed_gpt_{level - 1}"]


class EncodedText(TextFeatures):
    """Features from an encoder. The sentences that were used last are kept, so that an epoch does not encode them again.

    Args:
        encoder: Encodes the sentences.
        max_kept (`int`): How many sentences to keep: 65,536 CLIP sentences of 12 tokens take 1.6 GB.
    """

    def __init__(self, encoder: TextEncoder, max_kept: int = 65536):
        self.encoder, self.max_kept = encoder, max_kept
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def __getstate__(self):
        return {"encoder": self.encoder, "max_kept": self.max_kept}

    def __setstate__(self, state):
        self.__init__(**state)

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def public_spec(self) -> str:
        return self.encoder.spec

    def __call__(self, *, query: str, qid: str, level: int | None = None) -> np.ndarray:
        if query not in self._kept:
            try:
                self._keep(query, self.encoder.encode([query])[0])
            except ValueError as error:
                raise ValueError(f"qid {qid!r}: {error}") from error
        self._kept.move_to_end(query)
        return self._kept[query]

    def prefetch(self, queries: Iterable[str], progress: bool = True) -> None:
        """Encode sentences in batches before they are asked for one by one; no more than are kept.

        Raises:
            ValueError: for a sentence that cannot be encoded.
        """
        new = [query for query in dict.fromkeys(queries) if query not in self._kept][: self.max_kept]
        new.sort(key=len)  # Sentences of like length waste little padding.
        with tqdm(
            total=len(new), desc=f"Encoding with {self.encoder.spec}", unit=" texts", disable=not progress
        ) as bar:
            for start in range(0, len(new), BATCH_SIZE):
                batch = new[start : start + BATCH_SIZE]
                for query, features in zip(batch, self.encoder.encode(batch)):
                    # A copy: a view would keep the padding of its whole batch alive.
                    self._keep(query, features.copy())
                bar.update(len(batch))

    def _keep(self, query: str, features: np.ndarray) -> None:
        self._kept[query] = features
        if len(self._kept) > self.max_kept:
            self._kept.popitem(last=False)
