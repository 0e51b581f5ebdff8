"""Encoders of raw text and video, selected by a specification that the model's configuration records."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..specs import Spec

if TYPE_CHECKING:
    from .video_base import VideoEncoder
    from .video_source import VideoFrames

__all__ = [
    "TEXT_ENCODERS",
    "VIDEO_ENCODERS",
    "TextEncoder",
    "VideoFrames",
    "are_same_text_encoder",
    "is_text_encoder_spec",
    "is_video_encoder_spec",
    "text_encoder",
    "video_encoder",
]

# Kind -> option -> type of its value.
TEXT_ENCODERS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "words": {"dim": int, "seed": int},
    "clip": {},
    "auto": {"layer": int},
    "vectors": {"vocabulary": str},
}
VIDEO_ENCODERS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "pixels": {"size": int, "frames": int},
    "clip": {"frames": int},
    "auto": {"frames": int},
    "slowfast": {},
}
_OPTIONS_ONLY = ("words", "pixels")
_NEEDS_WHERE = {
    "auto": "the name of a model, e.g. auto:MCG-NJU/videomae-base or auto:sentence-transformers/all-MiniLM-L6-v2",
    "vectors": "a file of word vectors, e.g. vectors:glove.6B.300d.txt",
    "slowfast": "a file of weights, e.g. slowfast:SLOWFAST_8x8_R50.pyth",
}


class TextEncoder(Protocol):
    """Interface of text encoders: texts in, token features out."""

    dim: int

    @property
    def spec(self) -> str:
        """The specification that rebuilds this encoder."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return token features `(L, dim)` float32 of each text."""


def is_text_encoder_spec(spec: str) -> bool:
    """Return whether a specification names a text encoder (not a feature store)."""
    return Spec.parse(spec, TEXT_ENCODERS).kind in TEXT_ENCODERS


def are_same_text_encoder(spec: str, other: str) -> bool:
    """Return whether two specifications of text encoders do not contradict each other, e.g. `words:dim=8` and `words:dim=8,seed=0`."""
    return not Spec.parse(spec, TEXT_ENCODERS).contradicts(Spec.parse(other, TEXT_ENCODERS))


def text_encoder(spec: str, device: str | None = None) -> TextEncoder:
    """Return the text encoder of a specification.

    Args:
        spec: `words:[dim=…,seed=…]`; `clip:[MODEL]`; `auto:MODEL[,layer=…]` for any text model of transformers; or
            `vectors:FILE[,vocabulary=FILE]` for word vectors. MODEL is a Hub name or a local folder.
        device: Device of the model; by default a GPU if available.

    Raises:
        ValueError: for an unknown kind or option.
        FileNotFoundError: for a missing local file or folder.
    """
    parsed = _checked(Spec.parse(spec, TEXT_ENCODERS), spec, "text", TEXT_ENCODERS)
    if parsed.kind == "words":
        from .words import WordsTextEncoder

        return WordsTextEncoder(**parsed.options)
    if parsed.kind == "vectors":
        from .vectors import VectorsTextEncoder

        return VectorsTextEncoder(parsed.where, **parsed.options)
    if parsed.kind == "clip":
        from .clip import DEFAULT_MODEL, ClipTextEncoder

        return ClipTextEncoder(parsed.where or DEFAULT_MODEL, device=device)
    from .auto import AutoTextEncoder

    return AutoTextEncoder(parsed.where, **parsed.options, device=device)


def is_video_encoder_spec(spec: str) -> bool:
    """Return whether a specification names video encoders (not a feature store)."""
    return all(part.kind in VIDEO_ENCODERS for part in Spec.parse_all(spec, VIDEO_ENCODERS))


def video_encoder(spec: str, device: str | None = None) -> VideoEncoder:
    """Return the video encoder of a specification. The features of encoders joined by `+` are concatenated.

    Args:
        spec: `pixels:[size=…,frames=…]`; `clip:[MODEL][,frames=…]`; `auto:MODEL[,frames=…]` for any image or video model of transformers; or
            `slowfast:FILE`. MODEL is a Hub name or a local folder.
        device: Device of the model; by default a GPU if available.

    Raises:
        ValueError: for an unknown kind or option.
        FileNotFoundError: for a missing local file or folder.
    """
    encoders = [_video_encoder(part, spec, device) for part in Spec.parse_all(spec, VIDEO_ENCODERS)]
    if len(encoders) == 1:
        return encoders[0]
    from .video_base import JointEncoder

    return JointEncoder(encoders)


def _video_encoder(parsed: Spec, spec: str, device: str | None) -> VideoEncoder:
    parsed = _checked(parsed, spec, "video", VIDEO_ENCODERS)
    if parsed.kind == "pixels":
        from .pixels import PixelEncoder

        return PixelEncoder(**parsed.options)
    if parsed.kind == "clip":
        from .clip import DEFAULT_MODEL, ClipVideoEncoder

        return ClipVideoEncoder(parsed.where or DEFAULT_MODEL, **parsed.options, device=device)
    if parsed.kind == "slowfast":
        from .slowfast import SlowFastEncoder

        return SlowFastEncoder(parsed.where, device=device)
    from .auto import AutoVideoEncoder

    return AutoVideoEncoder(parsed.where, **parsed.options, device=device)


def _checked(parsed: Spec, spec: str, what: str, kinds: Mapping[str, Any]) -> Spec:
    if parsed.kind not in kinds:
        raise ValueError(
            f"unknown {what} encoder {parsed.where!r}{f' in {spec!r}' if parsed.where != spec else ''}; expected "
            f"{' or '.join(f'{kind}:' for kind in kinds)}"
        )
    if parsed.kind in _NEEDS_WHERE and not parsed.where:
        raise ValueError(f"{parsed.kind}: needs {_NEEDS_WHERE[parsed.kind]}")
    if (
        parsed.kind in ("clip", "auto")
        and parsed.where.startswith(("/", ".", "~"))
        and not os.path.isdir(parsed.where)
    ):
        # transformers would take the path for a malformed name on the Hub.
        raise FileNotFoundError(f"{parsed.kind}: no model folder {parsed.where}")
    if parsed.kind in _OPTIONS_ONLY and parsed.where:
        raise ValueError(
            f"{parsed.kind}: has no option {parsed.where!r}; its options are {', '.join(kinds[parsed.kind])}"
        )
    return parsed


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that importing the tables of encoders does not import PyAV.
    if name == "VideoFrames":
        from .video_source import VideoFrames

        return VideoFrames
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def public_spec(spec: str) -> str:
    """Return a specification of encoders or features with local paths reduced to their last part."""
    kinds = {**TEXT_ENCODERS, **VIDEO_ENCODERS}
    return "+".join(part.public() for part in Spec.parse_all(spec, kinds))
