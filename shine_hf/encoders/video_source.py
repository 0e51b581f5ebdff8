"""Open anything that a user may pass as a video, as a file or as frames with a frame rate."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..io import retry

_ACCEPTED = "a path, an http(s):// or hf:// URL, the bytes of a file, a value of a `datasets` Video column, or VideoFrames(frames, fps=…)"
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class VideoFrames:
    """Decoded frames with a constant frame rate.

    Args:
        frames: Array, tensor or sequence of frames: `(T, H, W, 3)` or `(T, 3, H, W)`, also gray or with an alpha channel, uint8 or floats in
            [0, 1]; or a list of PIL images.
        fps: Frames per second.

    Raises:
        ValueError: for a rate that is not positive, or no frames.
    """

    frames: Any
    fps: float

    def __post_init__(self):
        if not self.fps > 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        if not len(self.frames):
            raise ValueError("the video has no frames")

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each frame as `(H, W, 3)` uint8."""
        for index in range(len(self.frames)):
            yield _as_rgb(self.frames[index], index)


@dataclass
class VideoFile:
    """An open video file.

    Args:
        name: Its name in messages; only the host and path of a URL.
        file: The open file, binary and seekable.
        duration: Seconds, once known.
    """

    name: str
    file: IO[bytes]
    duration: float | None = None


@contextlib.contextmanager
def open_video(video: Any) -> Iterator[VideoFile | VideoFrames]:
    """Open anything that a user may pass as a video. A video that is already open is returned as is.

    A remote file is downloaded to a temporary file, which is deleted after the block.

    Args:
        video: A path, an `http(s)://` or `hf://` URL, the bytes of a file or an open file, a value of a `datasets` Video column (a
            dictionary with `path` and `bytes`, or a decoder of torchcodec), a container opened by PyAV, or [`VideoFrames`].

    Raises:
        FileNotFoundError: for a missing file or URL.
        ValueError: for an empty file, and for anything that is not a video.
        OSError: for a download that fails.
    """
    with contextlib.ExitStack() as stack:
        opened = _open(video, stack)
        if isinstance(opened, VideoFile) and not opened.file.seek(0, os.SEEK_END):
            raise ValueError(f"{opened.name}: the file is empty (0 bytes)")
        yield opened


def video_name(video: Any) -> str:
    """Return a short name of a video for messages and figures: its file name if it has one."""
    if isinstance(video, VideoFile):
        return os.path.basename(video.name)
    if isinstance(video, Mapping) or hasattr(video, "_hf_encoded"):
        record = video if isinstance(video, Mapping) else video._hf_encoded
        return video_name(record["path"]) if record.get("path") else "video"
    if isinstance(video, str | os.PathLike):
        return os.path.basename(urllib.parse.urlsplit(str(video)).path if _is_remote(str(video)) else str(video))
    return os.path.basename(name) if isinstance(name := getattr(video, "name", None), str) and name else "video"


def _open(video: Any, stack: contextlib.ExitStack) -> VideoFile | VideoFrames:
    if isinstance(video, VideoFile | VideoFrames):
        return video
    if isinstance(video, str | os.PathLike):
        return _open_path(video, stack)
    if isinstance(video, bytes | bytearray | memoryview):
        return VideoFile(f"video of {len(video):,} bytes", io.BytesIO(video))
    if isinstance(video, Mapping):
        return _open_mapping(video, stack)
    if isinstance(record := getattr(video, "_hf_encoded", None), Mapping) and _is_local(record):
        return _open_mapping(record, stack)  # A torchcodec decoder from `datasets`, which records its file.
    if hasattr(video, "get_frame_at") and hasattr(video, "metadata"):
        return _frames_of_decoder(video)
    if type(video).__module__.partition(".")[0] == "av":
        if isinstance(name := getattr(video, "name", None), str) and os.path.isfile(name):
            return _open_path(name, stack)
        raise ValueError(
            "the PyAV container was not opened from a local file; pass the source that it was opened from"
        )
    if hasattr(video, "read"):
        if not (hasattr(video, "seekable") and video.seekable()):
            video = io.BytesIO(video.read())
        if isinstance(video, io.TextIOBase):
            raise ValueError("the file was opened as text; open videos with mode 'rb'")
        name = getattr(video, "name", None)
        return VideoFile(name if isinstance(name, str) else "open file", video)
    if hasattr(video, "ndim") or isinstance(video, Sequence):
        shape = f"an array of shape {tuple(video.shape)}" if hasattr(video, "ndim") else f"a {type(video).__name__}"
        raise ValueError(f"{shape} has no frame rate; pass VideoFrames(frames, fps=25), from shine_hf.encoders")
    raise ValueError(f"not a video: {type(video).__name__}; expected {_ACCEPTED}")


def _open_path(video: str | os.PathLike, stack: contextlib.ExitStack) -> VideoFile:
    text = os.fspath(video)
    if isinstance(text, str) and _is_remote(text):
        return _download(text, stack)
    path = Path(os.fsdecode(text)).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass one video file")
    if not path.is_file():
        raise FileNotFoundError(f"no video file {path}")
    return VideoFile(str(path), stack.enter_context(path.open("rb")))


def _open_mapping(video: Mapping, stack: contextlib.ExitStack) -> VideoFile | VideoFrames:
    path, content = video.get("path"), video.get("bytes")
    if content is not None:
        return VideoFile(os.path.basename(path) if path else f"video of {len(content):,} bytes", io.BytesIO(content))
    if path is not None:
        return _open_path(path, stack)
    if video.get("frames") is not None and video.get("fps") is not None:
        return VideoFrames(video["frames"], video["fps"])
    raise ValueError(
        f"not a video: a dictionary with {', '.join(map(str, video)) or 'nothing'}; expected `path` or `bytes`, or `frames` and `fps`"
    )


def _is_local(record: Mapping) -> bool:
    return record.get("bytes") is not None or (record.get("path") is not None and os.path.isfile(record["path"]))


def _is_remote(text: str) -> bool:
    return "://" in text and not os.path.exists(text)


def _download(address: str, stack: contextlib.ExitStack) -> VideoFile:
    """Download to an unnamed temporary file, since reading a video takes more than one pass."""
    scheme = address.partition("://")[0].lower()
    # A URL may contain a password or a signature: show neither in messages.
    parts = urllib.parse.urlsplit(address)
    name = f"{scheme}://{parts.hostname or parts.netloc}{parts.path}"
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    if scheme in ("http", "https"):
        retry(lambda: _fetch(address, name, file), _is_transient)
    elif scheme == "hf" or "::" in address:
        _fetch_by_fsspec(address, name, file)
    elif scheme == "file":
        return _open_path(urllib.request.url2pathname(parts.path), stack)
    else:
        raise ValueError(f"{name}: {scheme}:// URLs are not supported; pass {_ACCEPTED}")
    return VideoFile(name, file)


class _Incomplete(OSError):
    """A download that ended early."""


def _fetch(address: str, name: str, file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()
    request = urllib.request.Request(address, headers={"User-Agent": "shine_hf"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as reply:
            if reply.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
                raise ValueError(
                    f"{name} is a web page, not a video file; pass the URL of the file, or download the video first"
                )
            expected, received = reply.headers.get("Content-Length"), 0
            while block := reply.read(2**20):
                received += file.write(block)
            if expected is not None and received != int(expected):
                raise _Incomplete(f"{name}: the download ended after {received:,} of {expected} bytes")
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(f"no video at {name} (HTTP status {error.code})") from error
        if not _is_transient(error):
            raise ValueError(f"{name} cannot be downloaded: HTTP status {error.code} ({error.reason})") from error
        raise
    except urllib.error.URLError as error:
        raise OSError(f"{name} cannot be downloaded: {error.reason}") from error


def _is_transient(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code == 429 or error.code >= 500
    return isinstance(error, _Incomplete | TimeoutError | ConnectionError)


def _fetch_by_fsspec(address: str, name: str, file: IO[bytes]) -> None:
    """Download from the URLs of `datasets` in streaming mode: files on the Hub and members of archives."""
    import shutil

    import fsspec

    try:
        with fsspec.open(address, "rb") as remote:
            shutil.copyfileobj(remote, file, 2**20)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no video at {name}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name} cannot be read ({type(error).__name__})") from error


def _frames_of_decoder(decoder: Any) -> VideoFrames:
    """Return the frames of a torchcodec decoder, at its average rate."""

    class Frames:
        def __len__(self) -> int:
            return len(decoder)

        def __getitem__(self, index: int):
            return decoder.get_frame_at(index).data

    fps = getattr(decoder.metadata, "average_fps", None)
    if not fps:
        raise ValueError("the video decoder has no average_fps in its metadata; pass the file that it reads")
    return VideoFrames(Frames(), float(fps))


def _as_rgb(frame: Any, index: int) -> np.ndarray:
    """Convert a frame of any common kind to `(H, W, 3)` uint8."""
    if hasattr(frame, "convert"):  # A PIL image.
        return np.asarray(frame.convert("RGB"))
    if hasattr(frame, "detach"):  # A tensor on any device.
        frame = frame.detach().cpu().numpy()
    pixels = np.asarray(frame)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or not pixels.size:
        raise ValueError(f"frame {index} has shape {pixels.shape}; expected (H, W, 3) or (3, H, W)")
    pixels = pixels[..., :3] if pixels.shape[-1] > 1 else pixels.repeat(3, axis=-1)
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    top = 1 if pixels.dtype.kind == "f" else 255
    if pixels.dtype.kind not in "fiu" or not (pixels.min() >= 0 and pixels.max() <= top):
        raise ValueError(
            f"frame {index} has type {pixels.dtype} and values {pixels.min()} to {pixels.max()}; expected uint8, or floats in [0, 1]"
        )
    return np.ascontiguousarray((pixels * (255 / top)).round().astype(np.uint8))
