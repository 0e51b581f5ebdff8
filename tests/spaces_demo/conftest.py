"""A running demo server with a tiny model."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from shine_hf.encoders import video_encoder
from shine_hf.inference.pipeline import VideoMomentRetrievalPipeline
from shine_hf.modeling import QDDetrConfig, QDDetrForMomentRetrieval

from ..encoders.videos import gray, write_video

APP = Path(__file__).resolve().parents[2] / "spaces" / "demo" / "app.py"


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio")
    spec = importlib.util.spec_from_file_location("demo_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def find():
    torch.manual_seed(0)
    sizes = {"video_dim": video_encoder("pixels:size=4").dim, "text_dim": 12, "hidden_size": 16}
    config = QDDetrConfig(
        **sizes, num_attention_heads=2, clip_length=0.5, video_encoder="pixels:size=4", text_encoder="words:dim=12"
    )
    return VideoMomentRetrievalPipeline(model=QDDetrForMomentRetrieval(config), device="cpu")


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    """Write eight seconds of odd-sized video that goes from dark to light."""
    frames = [gray(level, 37, 51) for level in range(0, 256, 8)]
    return write_video(tmp_path_factory.mktemp("video_file") / "video_file.mp4", frames, fps=4)


@pytest.fixture(scope="module")
def server(app, find, tmp_path_factory):
    cache = tmp_path_factory.mktemp("gradio")
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ |= {"GRADIO_TEMP_DIR": str(cache), "GRADIO_ANALYTICS_ENABLED": "False"}
    page = app.build_app(find, [])
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    yield url
    page.close()
    os.environ.pop("GRADIO_TEMP_DIR") if before is None else os.environ.update(GRADIO_TEMP_DIR=before)
