"""The processor: features to model inputs, model outputs to moments."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from shine_hf import MomentRetrievalOutput, MomentRetrievalProcessor, QDDetrConfig
from shine_hf.modeling.pipeline_moment_retrieval import MomentRetrievalPipeline
from shine_hf.modeling.ranking import temporal_nms

from .helpers import tiny_model


def test_each_feature_type_is_normalized_separately():
    processor = MomentRetrievalProcessor(video_feature_dims=[2, 3])
    features = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    normed = processor.prepare_video(features)
    np.testing.assert_allclose(np.linalg.norm(normed[:, :2], axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(normed[:, 2:], axis=1), 1, atol=1e-4)
    assert MomentRetrievalProcessor(normalize_features=False).prepare_video(features) is not None
    np.testing.assert_array_equal(MomentRetrievalProcessor(normalize_features=False).prepare_video(features), features)


def test_batch_is_padded_cut_and_masks_absent_negatives():
    processor = MomentRetrievalProcessor(max_video_length=4, max_text_length=2)
    videos = [np.ones((6, 3)), np.ones((2, 3))]
    texts = [np.ones((3, 5)), np.ones((1, 5))]
    inputs = processor(videos, texts, [[np.ones((4, 5)), None], [None, np.ones((1, 5))]])
    assert inputs["video_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert inputs["text_attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert inputs["negative_text_attention_mask"].tolist() == [[[1, 1], [0, 0]], [[0, 0], [1, 0]]]
    assert not inputs["video_features"][1, 2:].any() and inputs["negative_text_features"].shape == (2, 2, 2, 5)


@pytest.mark.parametrize("wrap", [np.asarray, torch.as_tensor, np.ndarray.tolist])
def test_arrays_tensors_and_nested_lists_are_equivalent(wrap):
    rng, processor = np.random.default_rng(0), MomentRetrievalProcessor()
    video, text = rng.normal(size=(6, 3)), rng.normal(size=(2, 5))
    expected = processor(videos=[video], text=[text], return_tensors="pt")
    for videos, texts in (([wrap(video)], [wrap(text)]), (wrap(video), wrap(text)), (wrap(video[None]), [text])):
        got = processor(videos=videos, text=texts, return_tensors="pt")
        assert got.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(got[name], expected[name])
    half = processor(videos=torch.tensor(video, dtype=torch.bfloat16, requires_grad=True), text=text)
    torch.testing.assert_close(half["video_features"], expected["video_features"], atol=0.02, rtol=0)


def test_return_tensors_selects_the_type():
    processor = MomentRetrievalProcessor()
    inputs = processor(videos=np.ones((6, 3)), text=np.ones((2, 5)), return_tensors="np")
    assert isinstance(inputs["video_features"], np.ndarray) and inputs["video_features"].shape == (1, 6, 3)
    with pytest.raises(ValueError, match='return_tensors must be "pt" or "np"'):
        processor(videos=np.ones((6, 3)), text=np.ones((2, 5)), return_tensors="tf")


def test_mismatched_batches_and_raw_inputs_are_rejected(tmp_path):
    processor, video, text = MomentRetrievalProcessor(), np.ones((6, 3)), np.ones((2, 5))
    with pytest.raises(ValueError, match="1 videos for 2 queries"):
        processor(videos=[video], text=[text, text])
    with pytest.raises(ValueError, match="no videos"):
        processor(videos=[], text=[])
    for videos, texts in ((["kitchen.mp4"], [text]), (tmp_path / "kitchen.mp4", text), (video, "a person sits")):
        with pytest.raises(ValueError, match=r"use shine_hf\.MomentRetriever"):
            processor(videos=videos, text=texts)


@pytest.mark.parametrize(
    ("video", "text", "message"),
    [
        (np.ones((3, 4)), np.ones((2, 5)), "video features of q7 have 4 channels, but the model was built for 3"),
        (np.ones((3, 3)), np.ones((2, 6)), "text features of q7 have 6 channels"),
        (np.ones((0, 3)), np.ones((2, 5)), "at least one row"),
        (np.ones(3), np.ones((2, 5)), r"shape \(3,\)"),
        (np.array([[1, 2, 3], [1, np.nan, 3]]), np.ones((2, 5)), "NaN or infinite numbers in row 1"),
        (np.ones((3, 3)), np.ones((0, 5)), "text features of q7"),
    ],
)
def test_invalid_features_are_rejected_with_their_query(video, text, message):
    processor = MomentRetrievalProcessor(video_dim=3, text_dim=5)
    with pytest.raises(ValueError, match=message):
        processor([video], [text], names=["q7"])


def outputs(spans, scores, clips=6):
    foreground = torch.tensor(scores)
    logits = torch.stack([foreground.log(), (1 - foreground).log()], dim=-1)[None]
    return MomentRetrievalOutput(
        logits=logits, pred_spans=torch.tensor(spans)[None], saliency_scores=torch.arange(float(clips))[None]
    )


def test_moments_are_sorted_in_seconds_and_inside_the_video():
    processor = MomentRetrievalProcessor(clip_length=2.0)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])  # 5 clips: 10 s
    prediction = outputs([[0.5, 0.2], [0.9, 0.6], [0.05, 0.3]], [0.2, 0.9, 0.5])
    (result,) = processor.post_process_moment_retrieval(prediction, mask)
    got = [(m["start"], m["end"], m["score"]) for m in result["moments"]]
    np.testing.assert_allclose(got, [(6, 10, 0.9), (0, 2, 0.5), (4, 6, 0.2)], atol=1e-5)
    assert result["saliency"] == [0, 1, 2, 3, 4] and result["clip_length"] == 2.0
    (result,) = processor.post_process_moment_retrieval(prediction, mask, durations=[9.1], top_k=1)
    assert len(result["moments"]) == 1 and result["moments"][0]["end"] == pytest.approx(9.1)
    (result,) = processor.post_process_moment_retrieval(prediction, mask, threshold=0.4)
    assert len(result["moments"]) == 2


def test_post_processing_accepts_model_outputs():
    """Accept any device and precision; without a mask no clip is padding; require one duration per sample."""
    processor = MomentRetrievalProcessor(clip_length=2.0)
    prediction = outputs([[0.5, 0.2]], [0.5], clips=5)
    prediction.pred_spans.requires_grad_()
    (result,) = processor.post_process_moment_retrieval(prediction)
    assert len(result["saliency"]) == 5
    assert processor.post_process_moment_retrieval(prediction, np.ones((1, 5)), durations=torch.tensor([10.0])) == [
        result
    ]
    with pytest.raises(ValueError, match="give one duration per sample, got 2 for 1"):
        processor.post_process_moment_retrieval(prediction, durations=[9.0, 9.0])


def test_moment_after_the_end_becomes_the_last_clip():
    processor = MomentRetrievalProcessor(clip_length=2.0)
    spans, mask = torch.tensor([[[0.95, 0.1], [0.5, 0.2]]]), torch.ones(1, 5)
    moments = processor.decode_moments(None, spans, mask, torch.tensor([8.3]))
    torch.testing.assert_close(moments[0, :, :2], torch.tensor([[8.0, 8.3], [4.0, 6.0]]))


def test_moments_are_rounded_to_the_clip_length():
    processor = MomentRetrievalProcessor(clip_length=2.0)
    (result,) = processor.post_process_moment_retrieval(
        outputs([[0.47, 0.3]], [0.5], clips=5), torch.ones(1, 5), round_to_clip_length=True
    )
    assert (result["moments"][0]["start"], result["moments"][0]["end"]) == (4.0, 6.0)


def test_saliency_weight_adds_saliency_contrast_to_the_score():
    # The first window covers clips 0 and 1 and half of clip 2; padding (clip 5) must not count.
    spans, logits = (
        torch.tensor([[[0.25, 0.5], [0.8, 0.4], [0.5, 1.0]]]),
        torch.tensor([[[2.0, 0.0], [1.0, 0.0], [0.5, 0.5]]]),
    )
    mask, saliency = torch.tensor([[1, 1, 1, 1, 1, 0]]), torch.tensor([[0.0, 0.0, 1.0, 3.0, 3.0, 99.0]])
    contrasts = [0.5 / 2.5 - (0.5 + 6) / 2.5, 3.0 - 1 / 3, 0.0]
    for weight in (0.0, 0.5, 2.0):
        processor = MomentRetrievalProcessor(clip_length=2.0)
        moments = processor.decode_moments(
            logits, spans, mask, saliency_scores=saliency, saliency_weight=torch.tensor([weight])
        )[0]
        want = torch.tensor([2.0, 1.0, 0.0]) + weight * torch.tensor(contrasts)
        torch.testing.assert_close(moments[:, 2], want.sigmoid().sort(descending=True).values)
        assert moments[0, 0].item() == pytest.approx(0.0 if weight == 0 else 6.0)
    with pytest.raises(ValueError, match="saliency_scores"):
        processor.decode_moments(logits, spans, mask, saliency_weight=torch.ones(1))


@pytest.mark.parametrize("kind", ["qd_detr", "moment_detr"])
def test_saliency_weight_is_stored_in_the_model_config(kind, tmp_path):
    """It used to be in preprocessor_config.json too, so `AutoModel.from_pretrained(M, saliency_weight=2.0)` changed only the pipeline."""
    tiny_model(kind, saliency_weight=1.0).save_pretrained(tmp_path)
    MomentRetrievalProcessor.from_config(AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    assert "saliency_weight" not in (tmp_path / "preprocessor_config.json").read_text()
    rng = np.random.default_rng(0)
    video, text = rng.normal(size=(9, 12)), rng.normal(size=(4, 8))

    def scores(**settings):
        model = AutoModel.from_pretrained(tmp_path, **settings).eval()
        processor = AutoFeatureExtractor.from_pretrained(tmp_path)
        inputs = processor(videos=[video], text=[text], return_tensors="pt")
        (by_snippet,) = processor.post_process_moment_retrieval(model(**inputs), inputs["video_attention_mask"])
        by_pipeline = MomentRetrievalPipeline(model=model, device="cpu")(video=video, query=text)
        assert by_snippet["moments"] == by_pipeline["moments"]
        return [moment["score"] for moment in by_snippet["moments"]]

    assert scores() == scores(saliency_weight=1.0) != scores(saliency_weight=2.0) != scores(saliency_weight=0.0)


def test_old_processor_files_with_a_saliency_weight_still_load(tmp_path):
    tiny_model("qd_detr").save_pretrained(tmp_path)
    MomentRetrievalProcessor(clip_length=2.0).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"saliency_weight": 3.0}))
    processor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert processor.clip_length == 2.0
    processor.save_pretrained(tmp_path)
    assert "saliency_weight" not in path.read_text()


def test_window_without_clips_inside_or_outside_has_no_contrast():
    processor, weight = MomentRetrievalProcessor(clip_length=1.0), torch.tensor([3.0])
    spans, logits = torch.tensor([[[0.5, 1.0], [0.5, 0.0]]]), torch.zeros(1, 2, 2)
    moments = processor.decode_moments(
        logits, spans, torch.ones(1, 4), saliency_scores=torch.tensor([[5.0, -1, 2, 0]]), saliency_weight=weight
    )
    assert moments[0, :, 2].tolist() == [0.5, 0.5]
    # Clips after the end of the video do not count as outside the window.
    moments = processor.decode_moments(
        logits,
        spans,
        torch.ones(1, 4),
        torch.tensor([3.4]),
        saliency_scores=torch.tensor([[5.0, 5, 5, -9]]),
        saliency_weight=weight,
    )
    assert moments[0, :, 2].tolist() == [0.5, 0.5]


def test_nms_drops_moments_that_overlap_a_better_kept_one():
    # a removes b; c overlaps only b, which is gone, so c stays.
    moments = torch.tensor([[[0, 10, 0.9], [2, 12, 0.8], [7, 17, 0.7], [30, 40, 0.6]]])
    kept = temporal_nms(moments, 0.4)[0]
    assert kept[:, 2].tolist() == pytest.approx([0.9, 0.7, 0.6, -1.0])
    processor = MomentRetrievalProcessor(clip_length=1.0)
    prediction = outputs([[0.5, 0.5], [0.5, 0.45]], [0.9, 0.8])
    (result,) = processor.post_process_moment_retrieval(prediction, torch.ones(1, 6), nms_threshold=0.5)
    assert len(result["moments"]) == 1


def test_nms_matches_a_simple_loop():
    rng = np.random.default_rng(0)
    start, length, score = (
        rng.uniform(0, 20, (8, 12)),
        rng.uniform(0.1, 10, (8, 12)),
        -np.sort(-rng.uniform(size=(8, 12))),
    )
    moments = torch.from_numpy(np.stack([start, start + length, score], axis=-1))
    for row, kept in zip(moments, temporal_nms(moments, 0.5)):
        survivors = []
        for window in row.tolist():
            overlaps = [
                max(0, min(window[1], o[1]) - max(window[0], o[0])) / (max(window[1], o[1]) - min(window[0], o[0]))
                for o in survivors
            ]
            if all(overlap <= 0.5 for overlap in overlaps):
                survivors.append(window)
        np.testing.assert_allclose(kept[kept[:, 2] >= 0].numpy(), survivors)


def test_processor_is_saved_with_the_model_and_loads(tmp_path):
    processor = MomentRetrievalProcessor.from_config(
        QDDetrConfig(clip_length=1, video_dim=7, text_dim=3, max_text_length=9)
    )
    processor.save_pretrained(tmp_path)
    QDDetrConfig().save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is type(AutoProcessor.from_pretrained(tmp_path)) is MomentRetrievalProcessor
    assert (loaded.clip_length, loaded.video_dim, loaded.text_dim, loaded.max_text_length) == (1, 7, 3, 9)
