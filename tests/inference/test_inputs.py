"""Pipeline inputs: all equivalent forms of a video and a query give the same result."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from shine_hf.encoders.pixels import PixelEncoder
from shine_hf.encoders.video_source import VideoFrames
from shine_hf.inference.pipeline import VideoMomentRetrievalPipeline

from ..encoders.videos import gray, write_video
from .test_pipeline import CLIP, DIM, assert_same, tiny

QUERY, OTHER = "a red star", "the dog barks"
FPS = 4


@pytest.fixture(scope="module")
def find():
    return VideoMomentRetrievalPipeline(model=tiny(), device="cpu")


@pytest.fixture(scope="module")
def frames():
    return np.stack([gray(10 + 5 * index) for index in range(24)])


@pytest.fixture(scope="module")
def video_file(frames, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video_file") / "video_file.mp4", list(frames), fps=FPS)


@pytest.fixture(scope="module")
def expected(find, video_file):
    return find(video=video_file, query=QUERY)


@pytest.mark.parametrize("name", ["query", "text"])
def test_query_can_be_passed_under_two_names(find, video_file, expected, name):
    assert find(video_file, **{name: QUERY}) == find(video_file, QUERY) == expected
    assert find({"video": video_file, name: QUERY}) == expected
    one, (other,) = find([{"video": str(video_file), name: QUERY}, {"video": video_file, name: [QUERY]}])
    assert_same([one, other], [expected, expected])


def test_passing_both_names_is_rejected(find, video_file):
    with pytest.raises(ValueError, match="names of the same argument"):
        find(video_file, QUERY, text=QUERY)


def test_generators_and_datasets_are_processed_one_by_one(find, video_file, expected):
    taken = []

    def requests():
        for query in (QUERY, OTHER):
            taken.append(query)
            yield {"video": str(video_file), "query": query}

    answers = find(requests(), top_k=2)
    assert next(answers)["moments"] == expected["moments"][:2] and taken == [QUERY]
    assert len(list(answers)) == 1
    rows = Dataset.from_list([{"video": str(video_file), "text": QUERY}] * 2)
    assert list(find(rows)) == [expected] * 2
    assert list(find((path for path in (video_file, video_file)), QUERY)) == [expected] * 2

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index >= 2:
                raise IndexError
            return {"video": video_file, "query": QUERY}

    assert list(find(Rows())) == [expected] * 2


def test_unknown_option_fails_at_the_call_and_not_at_the_first_row(find):
    with pytest.raises(ValueError, match="topk"):
        find(iter([]), QUERY, topk=1)


@pytest.mark.parametrize("wrap", [lambda path: {"path": str(path), "bytes": None}, lambda path: {"path": None, "bytes": path.read_bytes()},
                                  lambda path: path.read_bytes(), lambda path: path.as_uri()])  # fmt: skip
def test_dataset_values_bytes_and_urls_are_accepted(find, video_file, expected, wrap):
    assert find(wrap(video_file), QUERY) == expected
    assert find([wrap(video_file)], [QUERY]) == [expected]


def test_frames_are_accepted_in_every_common_form(find, frames):
    expected = find(VideoFrames(frames, FPS), QUERY)
    as_tensor = torch.from_numpy(frames)
    for video in (
        frames,
        as_tensor,
        as_tensor.permute(0, 3, 1, 2),
        list(frames),
        [Image.fromarray(f) for f in frames],
    ):
        assert_same([find(video, QUERY, fps=FPS)], [expected])
    with pytest.raises(ValueError, match="fps=25"):
        find(frames, QUERY)


def test_features_are_accepted_as_arrays_tensors_and_batches(find):
    features = np.random.default_rng(0).normal(size=(2, 9, DIM)).astype(np.float32)
    expected = [find(video, QUERY) for video in features]
    assert find(torch.from_numpy(features[0]), QUERY) == expected[0]
    assert_same([find(torch.from_numpy(features[0]).bfloat16(), QUERY)], [find(torch.from_numpy(features[0]).bfloat16().float(), QUERY)])  # fmt: skip
    assert find(features, QUERY) == find(torch.from_numpy(features), QUERY) == find(list(features), QUERY) == expected


def test_queries_are_accepted_as_features(find, video_file, expected):
    tokens = find.text_encoder.encode([QUERY])[0]
    assert find(video_file, tokens) == find(video_file, torch.from_numpy(tokens)) == expected
    assert_same(find(video_file, [tokens, OTHER]), find(video_file, [QUERY, OTHER]))


def test_non_videos_are_rejected(find, video_file):
    for video, message in (
        (None, "NoneType"),
        (3, "not a video: int"),
        ([video_file, {"video": video_file}], "not both"),
        ({"frames": []}, "frames"),
    ):
        with pytest.raises(ValueError, match=message):
            find(video, QUERY)


def test_encoded_videos_are_cached_between_calls(video_file, frames, tmp_path, monkeypatch):
    encoded, encode = [], PixelEncoder.encode_video
    monkeypatch.setattr(PixelEncoder, "encode_video", lambda self, *a, **k: encoded.append(1) or encode(self, *a, **k))
    find = VideoMomentRetrievalPipeline(model=tiny(), device="cpu", kept_videos=2)
    path = tmp_path / "video_file.mp4"
    path.write_bytes(video_file.read_bytes())
    for video in (path, str(path), {"path": str(path), "bytes": None}):
        find(video, [QUERY, OTHER])
    assert len(encoded) == 1
    for _ in range(2):
        find(frames, QUERY, fps=FPS)
    assert len(encoded) == 2
    find(frames, QUERY, fps=2 * FPS)  # Another video evicts the oldest.
    find(path, QUERY)
    assert len(encoded) == 4
    write_video(path, [gray(200)] * 4, fps=FPS)  # The file has changed.
    assert len(find(path, QUERY)["saliency"]) == 1 / CLIP and len(encoded) == 5


def test_frames_are_rejected_if_the_model_has_no_encoder(frames):
    find = VideoMomentRetrievalPipeline(model=tiny(video_encoder="i3d:"), device="cpu")
    with pytest.raises(ValueError, match="cannot be computed from a video here"):
        find(frames, QUERY, fps=FPS)
