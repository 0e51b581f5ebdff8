"""Small made-up video files for all tests that read videos."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    fps: int = 4,
    times: Sequence[float] | None = None,
    rotation: int = 0,
    codec: str = "libx264",
    audio: int = 0,
    cover: bool = False,
    options: dict | None = None,
    gop: int | None = None,
    codec_options: dict | None = None,
    pixel_aspect: Fraction | None = None,
    time_base: int = 1000,
) -> Path:
    """Write `(H, W, 3)` uint8 frames, at a constant rate or at the given times in seconds.

    `audio` adds that many packets of silence (64 ms each). With `cover`, the frame is the cover image of an audio file.
    Every `gop`-th frame is a keyframe.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        # No chroma subsampling, since odd sizes cannot be halved.
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, time_base)
        if gop:
            stream.codec_context.gop_size = gop
        if codec_options:
            stream.codec_context.options = codec_options
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if cover:
            stream.pix_fmt, stream.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=16000) if audio else None
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = round(time_base * (times[index] if times is not None else index / fps))
            frame.time_base = Fraction(1, time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            for index in range(audio):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts = 16000, 1024 * index
                container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def gray(level: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A uniform frame."""
    return np.full((height, width, 3), level, np.uint8)
