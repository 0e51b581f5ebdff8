"""Render Shapes-CG: draw all frames of a video at once with NumPy, write MP4 files with PyAV, and draw contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..encoders.sampling import import_av
from ..io import atomic_file
from .events import Event, ShapesVideo, caption

RGB = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 90, 250),
    "yellow": (240, 220, 40),
    "purple": (180, 60, 220),
    "white": (245, 245, 245),
}
BOX_RGB = (120, 120, 120)
PERIOD_SECONDS = {"slowly": 4.0, "quickly": 1.0}
# As fractions of the frame size.
RADIUS, BOX_HALF, DISTANCE = 0.13, 0.07, 0.29
AMPLITUDE = 0.09


def render_video(video: ShapesVideo, size: int, fps: int) -> np.ndarray:
    """Draw all frames of a video, `(frames, size, size, 3)` uint8. Frame i shows the time i / fps."""
    frames = round(video.duration * fps)
    rng = np.random.default_rng(video.background)
    # A still, dark, slightly uneven background.
    picture = np.empty((frames, size, size, 3), np.float32)
    picture[:] = rng.uniform(10, 40, 3) + rng.uniform(-4, 4, (size, size, 1))
    y, x = (np.mgrid[:size, :size] + 0.5).astype(np.float32) / size
    box = np.maximum(np.abs(x - video.box[0]), np.abs(y - video.box[1])) - BOX_HALF
    box_mask = _coverage(box, size)
    for event in video.events:
        first, last = (int(np.ceil(time * fps - 1e-9)) for time in (event.start, event.end))
        times = np.arange(first, min(last, frames), dtype=np.float32) / fps
        if len(times):
            shape = _event_mask(event, video.box, times, x, y, size)
            if event.words[4] == "behind":
                shape = shape * (1 - box_mask)
            _paint(picture[first : first + len(times)], shape, RGB[event.words[0]])
    _paint(picture, box_mask[None], BOX_RGB)
    return picture.round().astype(np.uint8)


def _paint(picture: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    """Paint frames `(frames, H, W, 3)` in place where the mask `(frames or 1, H, W)` is above 0."""
    seen = mask.any(axis=0)
    if not seen.any():
        return
    rows, columns = (slice(where.min(), where.max() + 1) for where in np.nonzero(seen))
    part = picture[:, rows, columns]
    part += mask[:, rows, columns, None] * (np.asarray(color, np.float32) - part)


def _event_mask(event: Event, box: tuple[float, float], times: np.ndarray, x, y, size: int) -> np.ndarray:
    """Return the share of each pixel that the shape covers, `(frames, size, size)`."""
    _, shape, verb, adverb, preposition = event.words
    center_x = box[0] + (event.side * DISTANCE if preposition == "beside" else 0)
    center_y = box[1] + {"above": -DISTANCE, "below": DISTANCE}.get(preposition, 0)
    cycle = ((times - event.start) / PERIOD_SECONDS[adverb] + event.phase)[:, None, None]
    phase = cycle % 1
    swing = np.abs(4 * phase - 2) - 1  # A triangle wave between -1 and 1.
    angle, scale, visible = 0.0, 1.0, 1.0
    if verb == "slides":
        center_x = center_x + AMPLITUDE * swing
    elif verb == "bounces":
        center_y = center_y + AMPLITUDE * (1 - 2 * np.abs(np.sin(2 * np.pi * cycle / 2)))
    elif verb == "spins":
        angle = event.side * 2 * np.pi * cycle
    elif verb == "grows":
        scale = 0.5 + 0.7 * phase
    elif verb == "blinks":
        visible = (phase < 0.5).astype(np.float32)
    across, down = (x - center_x) / scale, (y - center_y) / scale
    u, v = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    return (_coverage(SHAPES[shape](u, v) * scale, size) * visible).astype(np.float32)


def _coverage(distance: np.ndarray, size: int) -> np.ndarray:
    """Convert the signed distance to an outline (negative inside) to the approximate share of the pixel that is covered."""
    return np.clip(0.5 - distance * size, 0, 1).astype(np.float32)


def _square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) - 0.8 * RADIUS


def _triangle(u, v):
    return np.maximum(np.maximum(v, -0.5 * v + 0.866 * u), -0.5 * v - 0.866 * u) - 0.55 * RADIUS


def _cross(u, v):
    u, v = np.abs(u), np.abs(v)
    bar, post = (np.maximum(a - RADIUS, b - 0.3 * RADIUS) for a, b in ((u, v), (v, u)))
    return np.minimum(bar, post)


def _crescent(u, v):
    bite = np.hypot(u - 0.55 * RADIUS, v)
    return np.maximum(np.hypot(u, v) - RADIUS, 0.75 * RADIUS - bite)


def _star(u, v):
    """Return the signed distance to a five-pointed star: by symmetry, the distance to one edge of half a point."""
    radius, sector = np.hypot(u, v), 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
    tip, dent = np.array([1.15 * RADIUS, 0.0]), 0.45 * RADIUS * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    edge = dent - tip
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (radius * np.cos(angle) - tip[0]) * normal[0] + radius * np.sin(angle) * normal[1]


SHAPES = {"square": _square, "triangle": _triangle, "star": _star, "cross": _cross, "crescent": _crescent}


def write_mp4(path: str | Path, frames: np.ndarray, fps: int) -> Path:
    """Encode `(frames, H, W, 3)` uint8 as H.264 and write the file atomically."""
    av = import_av()
    with atomic_file(path, "wb") as file, av.open(file, "w", format="mp4") as container:
        # One thread: videos are short, and several are encoded in parallel.
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"preset": "veryfast", "crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return Path(path)


def contact_sheet(videos: Sequence[ShapesVideo], path: str | Path, columns: int = 8, tile: int = 96) -> Path:
    """Draw an image with one line per event of each video: its caption, its times, and frames from its start to its end."""
    from PIL import Image, ImageDraw, ImageFont

    margin, text = 4, 20
    events = [(video, event) for video in videos for event in video.events]
    width, height = columns * (tile + margin) + margin, len(events) * (tile + margin + text) + margin
    sheet = Image.new("RGB", (width, height), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(size=text - 6), margin
    fps = 24
    for video, event in events:
        draw.text(
            (margin, top),
            f"{video.vid}, {event.start:.1f} to {event.end:.1f} s: {caption(event.words)}",
            fill="black",
            font=font,
        )
        frames = render_video(video, tile, fps)
        for column, time in enumerate(np.linspace(event.start, event.end, columns, endpoint=False)):
            frame = Image.fromarray(frames[min(int(np.ceil(time * fps)), len(frames) - 1)])
            sheet.paste(frame, (margin + column * (tile + margin), top + text))
        top += tile + margin + text
    with atomic_file(path, "wb") as file:
        sheet.save(file, format=Path(path).suffix[1:])
    return Path(path)
