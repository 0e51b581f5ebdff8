"""`MomentRetriever`: from a model folder and a video to a result that can be plotted and saved."""

import json

import numpy as np
import pytest
from PIL import Image

import shine_hf
from shine_hf import Moment, MomentRetriever
from shine_hf.inference.pipeline import VideoMomentRetrievalPipeline

from ..encoders.videos import gray, write_video
from .test_pipeline import CLIP, DIM, tiny

QUERIES = ["a red star", "the dog barks"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def retriever(folder):
    return MomentRetriever.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    frames = [gray(10 * index) for index in range(24)]
    return write_video(tmp_path_factory.mktemp("video_file") / "video_file.mp4", frames, fps=4)


def test_result_has_moments_saliency_and_plain_values(retriever, video_file):
    result = retriever.find(video_file, QUERIES[0])
    assert result.query == QUERIES[0] and result.clip_length == CLIP and len(result.saliency) == 12
    assert len(result.moments) == 5 and isinstance(result.moments[0], Moment)
    assert result.moments[0].score == max(moment.score for moment in result.moments)
    plain = result.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain.pop("query") == QUERIES[0]
    assert plain == retriever.pipeline(video_file, QUERIES[0], top_k=5)
    assert len(retriever.find(video_file, QUERIES[0], top_k=None).moments) == 10


def test_many_queries_and_videos_return_nested_results(retriever, video_file):
    one, other = (retriever.find(video_file, query) for query in QUERIES)
    assert [result.query for result in retriever.find(video_file, QUERIES)] == QUERIES
    many = retriever.find([video_file, video_file], QUERIES)
    assert [result.query for result in many] == QUERIES
    assert [result.moments[0].start for result in many] == pytest.approx(
        [one.moments[0].start, other.moments[0].start], abs=1e-4
    )
    nested = retriever.find([video_file, video_file], [QUERIES, QUERIES[0]])
    assert [result.query for result in nested[0]] == QUERIES and nested[1].query == QUERIES[0]
    assert retriever.find([video_file], QUERIES[0])[0].query == QUERIES[0]


def test_video_is_encoded_once_for_all_calls(retriever, video_file, monkeypatch):
    retriever.find(video_file, QUERIES[0])
    monkeypatch.setattr(
        type(retriever.pipeline.video_encoder), "encode_video", lambda *a, **k: pytest.fail("encoded again")
    )
    assert retriever.find(str(video_file), QUERIES[1]).moments


def test_figure_is_drawn_and_saved(retriever, video_file, tmp_path):
    frames = np.stack([gray(10 * index) for index in range(24)])
    features = np.ones((9, DIM), np.float32)
    for name, video, options in (("file", video_file, {}), ("frames", frames, {"fps": 4}), ("features", features, {})):
        result, other = retriever.find(video, QUERIES, **options)
        path = tmp_path / f"{name}.png"
        result.plot(path, windows=[[1, 2]], others=[other])
        assert Image.open(path).size[0] > 1000
    assert Image.open(tmp_path / "frames.png").size == Image.open(tmp_path / "file.png").size
    assert Image.open(tmp_path / "features.png").size[1] < Image.open(tmp_path / "file.png").size[1]


def test_loading_options_reach_the_model_and_the_encoders(folder, video_file):
    retriever = MomentRetriever.from_pretrained(
        folder, device="cpu", saliency_weight=2.0, text_encoder="words:dim=12,seed=5", kept_videos=0
    )
    assert retriever.pipeline.model.config.saliency_weight == 2.0
    assert "seed=5" in retriever.pipeline.text_encoder.spec
    assert retriever.find(video_file, QUERIES[0]).moments


def test_missing_model_is_reported(tmp_path):
    with pytest.raises(OSError, match="absent"):
        MomentRetriever.from_pretrained(tmp_path / "absent")


def test_retriever_is_a_public_name():
    assert shine_hf.MomentRetriever is MomentRetriever
    assert isinstance(MomentRetriever(VideoMomentRetrievalPipeline(model=tiny(), device="cpu")), MomentRetriever)
