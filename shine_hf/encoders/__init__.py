"""Raw text (and video) to features. One specification string says which encoder, and is recorded in the model's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

TEXT_ENCODERS = ("words", "clip")


class TextEncoder(Protocol):
    """Texts in, token features out."""

    dim: int

    @property
    def spec(self) -> str:
        """The specification that rebuilds this encoder."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token features `(L, dim)` float32 of each text."""


def is_text_encoder_spec(spec: str) -> bool:
    """Whether a specification names a text encoder (and not a feature store)."""
    return spec.partition(":")[0] in TEXT_ENCODERS


def text_encoder(spec: str) -> TextEncoder:
    """The text encoder of a specification: `words:[dim=…,seed=…]`, or `clip:MODEL` with a Hub name or a local folder.

    Raises:
        ValueError: for an unknown kind or option.
    """
    kind, _, options = spec.partition(":")
    if kind == "words":
        from ..options import parse_options
        from .words import WordsTextEncoder

        return WordsTextEncoder(**parse_options(options, {"dim": int, "seed": int}, "words:"))
    if kind == "clip":
        from .clip import ClipTextEncoder

        return ClipTextEncoder(options) if options else ClipTextEncoder()
    raise ValueError(f"unknown text encoder {spec!r}; expected {' or '.join(f'{kind}:' for kind in TEXT_ENCODERS)}")
