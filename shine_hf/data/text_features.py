"""Token features of queries and their negatives: encoded on the fly, or from a store keyed by qid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..encoders import TextEncoder, is_text_encoder_spec, text_encoder
from .feature_store import FeatureStore


class TextFeatures:
    """
    `text_features(query=…, qid=…, level=…)` -> float32 `(L, dim)`. `level` is None for the query of the row, else the level of its negative,
    counted from 1.
    """

    dim: int

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


class StoredText(TextFeatures):
    """Features from a store. The authors name a query's features by its qid, those of its negatives `{qid}_recomposed_gpt_{0,1,2}`."""

    def __init__(self, store: FeatureStore):
        self.store = store

    @property
    def dim(self) -> int:
        return self.store.dim

    def __call__(self, *, query: str, qid: str, level: int | None = None) -> np.ndarray:
        return self.store[qid if level is None else f"{qid}_recomposed_gpt_{level - 1}"]


class EncodedText(TextFeatures):
    """Features from an encoder. The sentences that were used last are kept, so that an epoch does not encode them again.

    Args:
        encoder: Encodes the sentences.
        max_kept (`int`): How many sentences to keep: 65,536 CLIP sentences of 12 tokens take 1.6 GB.
    """

    def __init__(self, encoder: TextEncoder, max_kept: int = 65536):
        self.encoder = encoder
        self._encode = lru_cache(max_kept)(self._encode_one)

    def __getstate__(self):
        return {"encoder": self.encoder, "max_kept": self._encode.cache_info().maxsize}

    def __setstate__(self, state):
        self.__init__(**state)

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def __call__(self, *, query: str, qid: str, level: int | None = None) -> np.ndarray:
        try:
            return self._encode(query)
        except ValueError as error:
            raise ValueError(f"qid {qid!r}: {error}") from error

    def _encode_one(self, query: str) -> np.ndarray:
        return self.encoder.encode([query])[0]
