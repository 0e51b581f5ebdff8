"""Every kind of video input is read, or rejected with a clear message."""

import functools
import http.server
import io
import threading
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from shine_hf.encoders import video_encoder, video_source
from shine_hf.encoders.video_reader import read_clips, video_duration
from shine_hf.encoders.video_source import VideoFrames, open_video, video_name

from .videos import gray, write_video

FRAMES = [gray(20 * index) for index in range(12)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Write three seconds of video at four frames per second."""
    return write_video(tmp_path_factory.mktemp("source") / "three.mkv", FRAMES)


@pytest.fixture(scope="module")
def expected(path):
    return np.stack(list(read_clips(path, 1.0, 2)))


@pytest.fixture
def server_url(path, monkeypatch):
    """Serve the video, `page` (HTML), `broken` (status 503 at first), `private` (403), and `short` (ends early) locally."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shine_hf.io.pause_seconds", lambda *args: 0)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            name = self.path.partition("?")[0]
            asked.append(name)
            content = path.read_bytes()
            if name == "/page":
                return self.reply(200, b"<html>", "text/html; charset=utf-8")
            if name == "/private":
                return self.reply(403, b"", "text/plain")
            if name == "/broken" and asked.count(name) < 3:
                return self.reply(503, b"", "text/plain")
            if name == "/short":
                return self.reply(200, content[:100], "video/x-matroska", length=len(content))
            if name in ("/three.mkv", "/broken"):
                return self.reply(200, content, "video/x-matroska")
            return self.reply(404, b"", "text/plain")

        def reply(self, status, content, kind, length=None):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=path.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_files_bytes_and_dataset_values_are_read(path, expected, tmp_path):
    content = path.read_bytes()
    with path.open("rb") as file, av.open(str(path)) as container:
        for video in (
            path, str(path), path.as_uri(), content, bytearray(content), io.BytesIO(content), file, container,
            {"path": str(path), "bytes": None}, {"path": "gone.mkv", "bytes": content}, {"path": None, "bytes": content},
        ):  # fmt: skip
            np.testing.assert_array_equal(np.stack(list(read_clips(video, 1.0, 2))), expected)
            assert video_duration(video) == pytest.approx(3.0, abs=0.01)
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.write(path, "in/three.mkv")
    # The path that `datasets` gives to files of an archive in streaming mode.
    streamed = f"zip://in/three.mkv::{tmp_path / 'videos.zip'}"
    np.testing.assert_array_equal(np.stack(list(read_clips(streamed, 1.0, 2))), expected)


def test_dataset_video_column_is_read(path, expected):
    from datasets import Dataset, Video

    rows = Dataset.from_dict({"video": [str(path)]}).cast_column("video", Video(decode=False))
    np.testing.assert_array_equal(np.stack(list(read_clips(rows[0]["video"], 1.0, 2))), expected)


class Decoder:
    """The part of torchcodec's `VideoDecoder` that this library uses."""

    def __init__(self, frames):
        self.frames = frames
        self.metadata = type("Metadata", (), {"average_fps": 4.0})()

    def __len__(self):
        return len(self.frames)

    def get_frame_at(self, index):
        return type("Frame", (), {"data": torch.from_numpy(self.frames[index]).permute(2, 0, 1)})()


def test_torchcodec_decoders_are_read(path, expected):
    decoder = Decoder(FRAMES)
    np.testing.assert_allclose(np.stack(list(read_clips(decoder, 1.0, 2))), expected, atol=4)
    # A decoder made by `datasets` knows its file.
    decoder = Decoder([])
    decoder._hf_encoded = {"path": None, "bytes": path.read_bytes()}
    np.testing.assert_array_equal(np.stack(list(read_clips(decoder, 1.0, 2))), expected)
    decoder._hf_encoded = {"path": "hf://datasets/some/one/three.mkv", "bytes": None}
    assert video_name(decoder) == "three.mkv"


@pytest.mark.parametrize(
    "frames",
    [
        np.stack(FRAMES),
        torch.from_numpy(np.stack(FRAMES)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack(FRAMES)) / 255,
        [Image.fromarray(frame) for frame in FRAMES],
        [frame[..., 0] for frame in FRAMES],
        np.stack(FRAMES).astype(np.int64),
        np.concatenate([np.stack(FRAMES), np.stack(FRAMES)[..., :1]], axis=-1),
    ],
    ids=["array", "channels_first", "floats", "images", "gray", "integers", "alpha"],
)
def test_frames_with_a_frame_rate_are_read(frames, expected):
    for video in (VideoFrames(frames, fps=4), {"frames": frames, "fps": 4.0}):
        np.testing.assert_allclose(np.stack(list(read_clips(video, 1.0, 2))), expected, atol=4)
        assert video_duration(video) == 3.0


def test_encoder_accepts_frames(path):
    encoder = video_encoder("pixels:size=4,frames=2")
    found = encoder.encode_video(VideoFrames(np.stack(FRAMES), fps=4), 1.0, progress=True)
    np.testing.assert_allclose(found, encoder.encode_video(path, 1.0), atol=0.02)


def test_urls_are_downloaded(server_url, expected):
    for name in ("three.mkv?token=secret", "broken"):
        np.testing.assert_array_equal(np.stack(list(read_clips(f"{server_url}/{name}", 1.0, 2))), expected)
    assert video_name(f"{server_url}/three.mkv?token=secret") == "three.mkv"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("gone.mkv", FileNotFoundError, "no video at .*gone.mkv .*404"),
        ("page", ValueError, "page is a web page, not a video file"),
        ("private", ValueError, "private cannot be downloaded: HTTP status 403"),
        ("short", OSError, "download ended after 100 of"),
    ],
)
def test_urls_without_a_video_are_rejected(server_url, name, kind, message):
    with pytest.raises(kind, match=message) as caught:
        next(read_clips(f"{server_url}/{name}?signature=secret", 1.0, 1))
    assert "secret" not in str(caught.value)


def test_unreachable_url_is_rejected(monkeypatch):
    monkeypatch.setattr("shine_hf.io.pause_seconds", lambda *args: 0)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(OSError, match=r"http://127.0.0.1/a.mp4 cannot be downloaded"):
        next(read_clips("http://user:secret@127.0.0.1:9/a.mp4", 1.0, 1))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (b"", "the file is empty"),
        ({"path": None, "bytes": None}, "a dictionary with path, bytes; expected"),
        ({}, "a dictionary with nothing"),
        (np.zeros((4, 8, 8, 3), np.uint8), r"an array of shape \(4, 8, 8, 3\) has no frame rate"),
        (FRAMES, "a list has no frame rate"),
        (io.StringIO("text"), "opened as text"),
        (None, "not a video: NoneType"),
        (7, "not a video: int"),
        ("rtsp://camera/1", "rtsp:// URLs are not supported"),
        ("s3://bucket/a.mp4", "s3:// URLs are not supported"),
    ],
)
def test_non_videos_are_rejected(video, message):
    with pytest.raises(ValueError, match=message):
        next(read_clips(video, 1.0, 1))


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (FRAMES, 0, "fps must be positive"),
        ([], 4, "no frames"),
        ([np.zeros((8, 8, 2), np.uint8)], 4, r"frame 0 has shape \(8, 8, 2\)"),
        ([np.full((8, 8, 3), 300)], 4, "values 300 to 300"),
        ([np.full((8, 8, 3), 2.0)], 4, r"floats in \[0, 1\]"),
        ([np.full((8, 8, 3), np.nan)], 4, "values nan"),
    ],
)
def test_invalid_frames_are_rejected(frames, fps, message):
    with pytest.raises(ValueError, match=message):
        next(read_clips(VideoFrames(frames, fps=fps), 1.0, 1))


def test_folder_is_rejected_with_a_hint(tmp_path):
    with pytest.raises(ValueError, match="is a folder; pass one video file"):
        next(read_clips(tmp_path, 1.0, 1))


def test_non_square_pixels_are_corrected(shared, tmp_path):
    path = write_video(tmp_path / "wide.mp4", FRAMES, pixel_aspect=Fraction(2, 1))
    assert next(read_clips(path, 1.0, 1)).shape == (1, 32, 96, 3)
    path = write_video(tmp_path / "tall.mkv", FRAMES, pixel_aspect=Fraction(1, 2))
    assert next(read_clips(path, 1.0, 1)).shape == (1, 32, 24, 3)
    # Rotated too: what is wide in the file is tall on screen.
    path = write_video(tmp_path / "turned.mp4", FRAMES, pixel_aspect=Fraction(2, 1), rotation=90)
    assert next(read_clips(path, 1.0, 1)).shape == (1, 96, 32, 3)


def test_public_anamorphic_file_is_read(shared):
    assert next(read_clips(shared / "cases" / "anamorphic" / "pal169.mp4", 1.0, 1)).shape == (1, 288, 512, 3)


@pytest.mark.parametrize(("suffix", "default"), [(".mkv", 1), (".mkv", None), (".ts", None)])
def test_main_video_track_is_read(tmp_path, suffix, default):
    """The dark preview is the first track, the bright video the second."""
    path = tmp_path / f"two{suffix}"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=4) for _ in range(2)]
        for index, (stream, pixels) in enumerate(zip(streams, [gray(20, 16, 16), gray(200, 64, 96)])):
            stream.height, stream.width = pixels.shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.disposition = av.stream.Disposition.default if index == default else 0
        for stream, pixels in zip(streams, [gray(20, 16, 16), gray(200, 64, 96)]):
            for packet in [p for _ in range(8) for p in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24"))]:
                container.mux(packet)
            container.mux(stream.encode())
    clip = next(read_clips(path, 1.0, 1))
    assert clip.shape == (1, 64, 96, 3) and clip.mean() == pytest.approx(200, abs=4)


def test_open_video_is_passed_through(path):
    with open_video(path) as source:
        assert source.duration is None
        list(read_clips(source, 1.0, 1))
        # Its length is known once it is decoded to the end.
        assert source.duration == pytest.approx(3.0, abs=0.01)
        with open_video(source) as again:
            assert again is source
        assert not source.file.closed
    assert source.file.closed


def test_downloads_leave_no_temporary_files(server_url, tmp_path, monkeypatch):
    monkeypatch.setattr(video_source.tempfile, "tempdir", str(tmp_path))
    list(read_clips(f"{server_url}/three.mkv", 1.0, 1))
    assert not list(tmp_path.iterdir())
