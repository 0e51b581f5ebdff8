"""Raw text (and video) to features. One specification string says which encoder, and is recorded in the model's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from .video_base import VideoEncoder

TEXT_ENCODERS = ("words", "clip")
VIDEO_ENCODERS = ("pixels", "clip", "auto")


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


def text_encoder(spec: str, device: str | None = None) -> TextEncoder:
    """The text encoder of a specification: `words:[dim=…,seed=…]`, or `clip:MODEL` with a Hub name or a local folder.

    `device` is where a model runs; by default a GPU if there is one.

    Raises:
        ValueError: for an unknown kind or option.
    """
    kind, _, options = spec.partition(":")
    if kind == "words":
        from ..specs import parse_options
        from .words import WordsTextEncoder

        return WordsTextEncoder(**parse_options(options, {"dim": int, "seed": int}, "words:"))
    if kind == "clip":
        from .clip import ClipTextEncoder

        return ClipTextEncoder(*filter(None, [options]), device=device)
    raise ValueError(f"unknown text encoder {spec!r}; expected {' or '.join(f'{kind}:' for kind in TEXT_ENCODERS)}")


def is_video_encoder_spec(spec: str) -> bool:
    """Whether a specification names a video encoder (and not a feature store)."""
    return spec.partition(":")[0] in VIDEO_ENCODERS


def video_encoder(spec: str, device: str | None = None) -> VideoEncoder:
    """The video encoder of a specification: `pixels:[size=…,frames=…]`, `clip:MODEL[,frames=…]`, or `auto:MODEL[,frames=…]` for any video
    model of transformers. MODEL is a Hub name or a local folder.

    `device` is where a model runs; by default a GPU if there is one.

    Raises:
        ValueError: for an unknown kind or option.
    """
    from ..specs import parse_options

    kind, _, options = spec.partition(":")
    if kind == "pixels":
        from .pixels import PixelEncoder

        return PixelEncoder(**parse_options(options, {"size": int, "frames": int}, "pixels:"))
    if kind not in VIDEO_ENCODERS:
        raise ValueError(
            f"unknown video encoder {spec!r}; expected {', '.join(f'{kind}:' for kind in VIDEO_ENCODERS)} and its options"
        )
    # The name of a model may hold a comma as long as no option seems to follow it.
    model, separator, frames = options.rpartition(",frames=")
    settings = parse_options(f"frames={frames}" if separator else "", {"frames": int}, f"{kind}:")
    model = model if separator else options
    if kind == "clip":
        from .clip import ClipVideoEncoder

        return ClipVideoEncoder(*filter(None, [model]), **settings, device=device)
    if not model:
        raise ValueError("auto: needs the name of a model, auto:MCG-NJU/videomae-base say")
    from .auto import AutoVideoEncoder

    return AutoVideoEncoder(model, **settings, device=device)
