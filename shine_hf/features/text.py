"""Token features of queries and their negatives: encoded once and cached, or read from a store keyed by qid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..encoders import TextEncoder, is_text_encoder_spec, text_encoder
from .base import FeatureStore
from .encoded import EncodedSentences, sentence_folder

PUBLIC_TEXT_SOURCES = (
    "CLIP text features of QVHighlights are published with moment_detr (github.com/jayleicn/moment_detr), those of SHINE with its code "
    "(github.com/zxccade/SHINE); `--text_features clip:openai/clip-vit-base-patch32` encodes the sentences here"
)
# Maximum number of sentences to keep in memory, other than those that were passed to `prepare`.
MAX_KEPT = 4096


class TextFeatures:
    """
    `text_features(query=…, qid=…, level=…)` -> float32 `(L, dim)`. `level` is None for the query itself, else the level of its negative,
    counted from 1.
    """

    dim: int
    public_spec: str
    """How cards and configurations name the features: by their encoder, or by the kind of store without the path."""

    @staticmethod
    def from_spec(spec: str) -> TextFeatures:
        """Open the text features that a specification describes.

        Args:
            spec: `words:[options]`, `clip:MODEL` or another encoder; or a store keyed by qid; see [`FeatureStore.from_spec`].

        Raises:
            ValueError: for an unknown kind.
            FileNotFoundError: if the folder or file does not exist.
        """
        if ":" in spec and is_text_encoder_spec(spec):
            return EncodedText(text_encoder(spec))
        return StoredText(FeatureStore.from_spec(spec))

    def __call__(self, *, query: str, qid: str, level: int | None = None) -> np.ndarray:
        raise NotImplementedError

    def prepare(self, rows: Iterable[Mapping], levels: int = 0, progress: bool = True) -> None:
        """Prepare the features of the queries and negatives of some rows, before they are requested one by one.

        Args:
            rows: Rows with `qid`, `vid`, `query`, and `negative_queries` if `levels` is positive.
            levels: How many negatives of each row are needed.
            progress: Show a progress bar.

        Raises:
            KeyError: if a store lacks features of some of them.
            ValueError: for a sentence that cannot be encoded.
        """
        raise NotImplementedError


class StoredText(TextFeatures):
    """
    Features from a store.

    The key of a query is `{qid}`, `qid{qid}` or its video. The keys of its negatives have the suffix `_recomposed_gpt_{0,1,2}` after the
    qid, as in the release of SHINE.

    Args:
        store: Any store.
    """

    def __init__(self, store: FeatureStore):
        self.store = store
        self._videos: dict[str, str] = {}

    @property
    def dim(self) -> int:
        return self.store.dim

    @property
    def public_spec(self) -> str:
        return self.store.public_spec

    def __call__(self, *, query: str, qid: str, level: int | None = None) -> np.ndarray:
        key = self._key(qid, level)
        if key is None:
            name = qid if level is None else f"{qid}_recomposed_gpt_{level - 1}"
            raise KeyError(f"no features of {name!r} (nor 'qid{name}') in {self.store.spec}. {PUBLIC_TEXT_SOURCES}")
        return self.store[key]

    def prepare(self, rows: Iterable[Mapping], levels: int = 0, progress: bool = True) -> None:
        """Check that no features are missing, so that training does not fail halfway; see [`TextFeatures.prepare`]."""
        missing, count = [], 0
        for row in rows:
            # TVSum has one query per video, and its text features are keyed by video.
            self._videos[row["qid"]] = row["vid"]
            negatives = (row.get("negative_queries") or ())[:levels] if levels else ()
            for level in (None, *(index for index, query in enumerate(negatives, start=1) if query)):
                count += 1
                if self._key(row["qid"], level) is None:
                    missing.append(row["qid"] if level is None else f"{row['qid']}, level {level}")
        if missing:
            shown = "; ".join(missing[:3]) + ("; …" if len(missing) > 3 else "")
            raise KeyError(
                f"{self.store.spec} has no features of {len(missing):,} of {count:,} queries and negatives ({shown}). {PUBLIC_TEXT_SOURCES}"
            )

    def _key(self, qid: str, level: int | None) -> str | None:
        suffix = "" if level is None else f"_recomposed_gpt_{level - 1}"
        names = [f"{qid}{suffix}", f"qid{qid}{suffix}"]
        if level is None and qid in self._videos:
            names.append(self._videos[qid])
        return next((name for name in names if name in self.store), None)


class EncodedText(TextFeatures):
    """
    Features from an encoder. [`prepare`] encodes sentences in batches and caches them in a memory-mapped store that all processes and later
    runs share; see [`EncodedSentences`].

    Args:
        encoder: Encodes the sentences.
        folder: Where to store the features; by default this encoder's folder in the cache. An encoder without a network has none by
            default, since encoding is as fast as reading.
    """

    def __init__(self, encoder: TextEncoder, folder: str | Path | None = None):
        self.encoder = encoder
        folder = folder or sentence_folder(encoder)
        self.sentences = EncodedSentences(encoder, folder) if folder else None
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def __getstate__(self):
        return {**self.__dict__, "_kept": OrderedDict()}

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def public_spec(self) -> str:
        return self.encoder.spec

    def __call__(self, *, query: str, qid: str, level: int | None = None) -> np.ndarray:
        if self.sentences is not None and query in self.sentences:
            return self.sentences[query]
        if query not in self._kept:
            try:
                self._kept[query] = self.encoder.encode([query])[0]
            except ValueError as error:
                raise ValueError(f"qid {qid!r}: {error}") from error
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(query)
        return self._kept[query]

    def prepare(self, rows: Iterable[Mapping], levels: int = 0, progress: bool = True) -> None:
        """Encode the sentences that are not stored yet; see [`TextFeatures.prepare`]."""
        if self.sentences is None:
            return
        wanted = [[row["query"], *(row.get("negative_queries") or ())[:levels]] for row in rows]
        self.sentences.add([query for queries in wanted for query in queries if query], progress)
