"""The pipeline: from a video file and a sentence to moments, with the features used in training."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import pipeline

from shine_hf.encoders import video_encoder
from shine_hf.encoders.pixels import PixelEncoder
from shine_hf.features.text import TextFeatures
from shine_hf.inference.features import predict_from_features
from shine_hf.inference.pipeline import TASK, VideoMomentRetrievalPipeline
from shine_hf.modeling import MomentDetrConfig, MomentDetrForMomentRetrieval, QDDetrConfig, QDDetrForMomentRetrieval

from ..encoders.videos import gray, write_video

SPEC, CLIP = "pixels:size=4,frames=2", 0.5
DIM = video_encoder(SPEC).dim


def tiny(config_class=QDDetrConfig, model_class=QDDetrForMomentRetrieval, **settings):
    torch.manual_seed(0)
    settings = {"video_encoder": SPEC, "text_encoder": "words:dim=12", **settings}
    return model_class(
        config_class(video_dim=DIM, text_dim=12, hidden_size=16, num_attention_heads=2, clip_length=CLIP, **settings)
    ).eval()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def find(model_folder):
    return pipeline(TASK, model=str(model_folder), device="cpu")


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    levels = np.linspace(10, 240, 24).astype(int)
    return write_video(
        tmp_path_factory.mktemp("video_file") / "video_file.mp4", [gray(level) for level in levels], fps=4
    )


@pytest.fixture(scope="module")
def short_video_file(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video_file") / "short.mp4", [gray(50)], fps=25)


def assert_same(results, expected):
    """Compare up to rounding: other batch sizes change the order of summation, so moments with equal scores may swap."""

    def by_time(result):
        return sorted(tuple(moment[key] for key in ("start", "end", "score")) for moment in result["moments"])

    assert len(results) == len(expected)
    for result, other in zip(results, expected):
        assert result["saliency"] == pytest.approx(other["saliency"], abs=1e-5)
        np.testing.assert_allclose(by_time(result), by_time(other), atol=1e-4)


def test_one_query_of_one_video_returns_moments(find, video_file):
    result = find(video=str(video_file), query="a person opens the door", top_k=3)
    assert isinstance(find, VideoMomentRetrievalPipeline)
    assert set(result) == {"moments", "saliency", "clip_length"} and result["clip_length"] == CLIP
    assert len(result["moments"]) == 3 and len(result["saliency"]) == 12
    scores = [moment["score"] for moment in result["moments"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= moment["start"] <= moment["end"] <= 6 for moment in result["moments"])


@pytest.mark.parametrize("kind", ["qd_detr", "moment_detr"])
def test_video_gives_the_same_result_as_its_training_features(kind, video_file):
    model = tiny() if kind == "qd_detr" else tiny(MomentDetrConfig, MomentDetrForMomentRetrieval)
    query = "a person opens the door"
    features = {"video_file": video_encoder(SPEC).encode_video(video_file, CLIP)}
    find = VideoMomentRetrievalPipeline(model=model, device="cpu")
    rows = [{"qid": "1", "vid": "video_file", "query": query, "duration": 6.0}]
    (expected,) = predict_from_features(
        model, find.feature_extractor, rows, features, TextFeatures.from_spec("words:dim=12"), progress=False
    )
    result = find(video=video_file, query=query)
    assert result == {name: expected[name] for name in result}
    assert find(video=features["video_file"], query=query) == result


def test_lists_of_inputs_return_lists(find, video_file, short_video_file):
    one, two = (find(video=video_file, query=query) for query in ("a red star", "the dog barks"))
    short = find(video=short_video_file, query="a red star")
    assert_same(find(video=video_file, query=["a red star", "the dog barks"]), [one, two])
    assert_same(find(video=[video_file, short_video_file], query="a red star"), [one, short])
    pairs = find(video=[video_file, short_video_file, video_file], query=["the dog barks", "a red star", "a red star"])
    assert_same(pairs, [two, short, one])
    nested = find(video=[video_file, short_video_file], query=[["a red star", "the dog barks"], "a red star"])
    assert_same(nested[0], [one, two])
    assert_same(nested[1:], [short])
    assert find(video=video_file, query=[]) == []
    assert find(video=[], query="a red star") == []


def test_video_is_encoded_once_for_all_its_queries(find, video_file, monkeypatch):
    calls, encode = [], PixelEncoder.encode_video
    monkeypatch.setattr(
        PixelEncoder, "encode_video", lambda self, path, *a, **k: calls.append(path) or encode(self, path, *a, **k)
    )
    find(video=video_file, query=[f"query {i}" for i in range(20)])
    assert len(calls) == 1
    find(video=[video_file, str(video_file), video_file], query=["one", "two", ["three", "four"]])
    assert len(calls) == 2


def test_threads_can_share_a_pipeline_of_a_model_in_training_mode():
    rng = np.random.default_rng(0)
    videos = [rng.normal(size=(length, DIM)).astype(np.float32) for length in (8, 12)] * 20
    find = VideoMomentRetrievalPipeline(model=tiny().train(), device="cpu")

    def scores(video):
        return find(video=video, query="a red star")["saliency"]

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(scores, videos))
    for video, answer in zip(videos, answers):
        assert answer == pytest.approx(scores(video), abs=1e-5)


def test_single_frame_video_is_one_clip(find, short_video_file):
    result = find(video=short_video_file, query="a red star")
    assert len(result["saliency"]) == 1
    assert all(moment["start"] < moment["end"] <= 0.5 for moment in result["moments"])


def test_video_longer_than_the_model_maximum_is_searched(video_file):
    find = VideoMomentRetrievalPipeline(model=tiny(max_video_length=5), device="cpu")
    result = find(video=video_file, query="a red star")
    assert len(result["saliency"]) == 12
    assert max(moment["end"] for moment in result["moments"]) > 2.5
    windowed = find(video=video_file, query="a red star", window_seconds=1.5, overlap=0.0, top_k=1)
    assert len(windowed["saliency"]) == 12 and len(windowed["moments"]) == 1


def test_pipeline_can_be_saved_and_loaded(find, video_file, tmp_path):
    find.save_pretrained(tmp_path)
    # The folder has pipeline code for environments without shine_hf; here the package's own is used, without trust_remote_code.
    assert (tmp_path / "pipeline_moment_retrieval.py").is_file()
    for options in ({}, {"trust_remote_code": True}):
        again = pipeline(TASK, model=str(tmp_path), device="cpu", **options)
        assert type(again) is VideoMomentRetrievalPipeline
    assert again(video=video_file, query="a red star") == find(video=video_file, query="a red star")


def test_invalid_files_are_rejected_with_the_reason(find, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4"):
        find(video=tmp_path / "absent.mp4", query="a red star")
    (tmp_path / "notes.mp4").write_text("this is not a video")
    with pytest.raises(ValueError, match=r"notes\.mp4"):
        find(video=tmp_path / "notes.mp4", query="a red star")


@pytest.mark.parametrize("query", ["", "  ", None, 3, ["fine", ""], [None]])
def test_invalid_queries_are_rejected(find, video_file, query):
    with pytest.raises((ValueError, TypeError), match=r"query|iterable"):
        find(video=video_file, query=query)


def test_numbers_of_videos_and_queries_must_agree(find, video_file):
    with pytest.raises(ValueError, match="2 videos, but 3 queries"):
        find(video=[video_file, video_file], query=["a", "b", "c"])


def test_unknown_options_are_rejected(find, video_file):
    with pytest.raises(ValueError, match="topk"):
        find(video=video_file, query="a red star", topk=1)
    with pytest.raises(ValueError, match="window_seconds"):
        find(video=video_file, query="a red star", window_seconds=0.1)


def test_features_without_an_encoder_are_rejected(video_file):
    find = VideoMomentRetrievalPipeline(
        model=tiny(video_encoder="i3d:features", text_encoder="npz:text"), device="cpu"
    )
    features = np.ones((9, DIM), np.float32)
    with pytest.raises(ValueError, match="i3d:features"):
        find(video=video_file, query="a red star")
    with pytest.raises(ValueError, match="npz:text"):
        find(video=features, query="a red star")
    fixed = VideoMomentRetrievalPipeline(
        model=tiny(video_encoder=None, text_encoder=None),
        device="cpu",
        video_encoder=SPEC,
        text_encoder="words:dim=12",
    )
    assert fixed(video=video_file, query="a red star")["moments"]


def test_encoder_of_another_width_is_rejected(video_file):
    find = VideoMomentRetrievalPipeline(model=tiny(), device="cpu", video_encoder="pixels:size=3,frames=2")
    with pytest.raises(
        ValueError, match=f"{video_encoder('pixels:size=3').dim} channels, but the model was built for {DIM}"
    ):
        find(video=video_file, query="a red star")


def test_all_kinds_of_video_input_give_the_same_moments(find, video_file):
    """Pass a path, bytes, a value of a `datasets` column, and decoded frames."""
    from shine_hf.encoders.video_reader import read_clips
    from shine_hf.encoders.video_source import VideoFrames

    expected = find(video=str(video_file), query="a red circle")
    content = video_file.read_bytes()
    for video in (video_file, content, {"path": None, "bytes": content}, {"path": str(video_file), "bytes": None}):
        assert find(video=video, query="a red circle") == expected
    frames = np.concatenate(list(read_clips(video_file, 0.25, 1)))
    found = find(video=[VideoFrames(frames, fps=4), content], query="a red circle")
    assert found[1] == expected
    np.testing.assert_allclose(found[0]["saliency"], expected["saliency"], atol=0.05)
    with pytest.raises(ValueError, match="frames need their rate"):
        find(video=frames, query="a red circle")
