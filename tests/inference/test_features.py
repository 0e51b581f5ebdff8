"""Moments of many queries, from stored features."""

import numpy as np
import pytest
import torch

from shine_hf import MomentRetrievalProcessor, QDDetrConfig, QDDetrForMomentRetrieval
from shine_hf.features.text import TextFeatures
from shine_hf.inference.features import as_submission, predict_from_features
from shine_hf.modeling.windows import find_moments

TEXTS = TextFeatures.from_spec("words:dim=12")


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = QDDetrConfig(video_dim=6, text_dim=12, hidden_size=16, num_attention_heads=2, max_video_length=20)
    return QDDetrForMomentRetrieval(config).eval()


@pytest.fixture
def videos():
    rng = np.random.default_rng(0)
    return {f"v{length}": rng.normal(size=(length, 6)).astype(np.float32) for length in (12, 100, 20)}


def rows(videos):
    return [{"qid": vid, "vid": vid, "query": "a red star"} for vid in videos]


def test_only_long_videos_are_split_into_windows(model, videos):
    processor = MomentRetrievalProcessor.from_config(model.config)
    found = list(predict_from_features(model, processor, rows(videos), videos, TEXTS, progress=False))
    assert [result["qid"] for result in found] == ["v12", "v100", "v20"]
    for result in found:
        video = videos[result["vid"]]
        (expected,) = find_moments(model, processor, video, [TEXTS(query="a red star", qid="any")])
        assert result["saliency"] == pytest.approx(expected["saliency"], abs=1e-4) and len(result["saliency"]) == len(
            video
        )
        for key in ("start", "end", "score"):
            assert result["moments"][0][key] == pytest.approx(expected["moments"][0][key], abs=1e-3)


def test_half_precision_model_predicts(model, videos):
    processor = MomentRetrievalProcessor.from_config(model.config)
    found = list(predict_from_features(model.bfloat16(), processor, rows(videos), videos, TEXTS, progress=False))
    assert len(found) == 3 and all(
        np.isfinite([moment["start"] for moment in result["moments"]]).all() for result in found
    )


def test_submissions_have_one_saliency_score_per_two_seconds():
    result = {"qid": "1", "query": "q", "vid": "v", "moments": [{"start": 0.0, "end": 1.0, "score": 0.5}]}
    row = as_submission({**result, "saliency": [1.0, 2.0, 3.0, 5.0], "clip_length": 1.0})
    assert row["pred_saliency_scores"] == [1.5, 4.0] and row["pred_relevant_windows"] == [[0.0, 1.0, 0.5]]
