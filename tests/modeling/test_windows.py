"""Windows over long videos: the result does not depend on where the video is cut."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shine_hf.modeling import MomentRetrievalProcessor, QDDetrConfig, QDDetrForMomentRetrieval
from shine_hf.modeling.windows import find_moments, window_starts

CLIP = 0.5


class RunFinder(torch.nn.Module):
    """A perfect model: channel q holds the depth of each clip inside query q's moments, and each run of positive clips is a moment."""

    device, dtype = torch.device("cpu"), torch.float32
    windows: list[int]

    def __init__(self):
        super().__init__()
        self.windows = []

    def forward(self, video_features, video_attention_mask, text_features, **_):
        spans, logits = torch.full((len(video_features), 4, 2), 0.5), torch.full((len(video_features), 4, 2), 0.0)
        logits[..., 0] = -9
        saliency = torch.zeros(video_features.shape[:2])
        for row, (video, mask, text) in enumerate(zip(video_features, video_attention_mask, text_features)):
            length = int(mask.sum())
            self.windows.append(length)
            depth = video[:length, int(text[0, 0])]
            saliency[row, :length] = depth
            edges = torch.diff((depth > 0).int(), prepend=torch.zeros(1), append=torch.zeros(1))
            for i, (start, end) in enumerate(zip((edges > 0).nonzero()[:, 0], (edges < 0).nonzero()[:, 0])):
                spans[row, i] = torch.stack([(start + end) / 2, end - start]) / length
                logits[row, i, 0] = 2 + depth[start]
        return SimpleNamespace(logits=logits, pred_spans=spans, saliency_scores=saliency)


def ask(runs, clips, queries=1, **options):
    """Call `find_moments` on a made-up video in which query q has the runs `(first clip, end clip, depth)` of `runs[q]`."""
    video = np.zeros((clips, queries), np.float32)
    for query, of_query in enumerate(runs):
        for first, end, depth in of_query:
            video[first:end, query] = depth
    processor = MomentRetrievalProcessor(clip_length=CLIP, normalize_features=False)
    texts = [np.full((1, 1), query, np.float32) for query in range(queries)]
    return find_moments(RunFinder(), processor, video, texts, **options), video


def windows_of(result, above=0.5):
    return [(m["start"], m["end"]) for m in result["moments"] if m["score"] > above]


@pytest.mark.parametrize(
    "clips,window,overlap", [(1, 8, 4), (8, 8, 4), (9, 8, 4), (100, 8, 0), (101, 8, 7), (33, 16, 5)]
)
def test_windows_cover_every_clip_and_are_full(clips, window, overlap):
    starts = window_starts(clips, window, overlap)
    covered = {clip for start in starts for clip in range(start, min(start + window, clips))}
    assert covered == set(range(clips))
    assert starts == sorted(set(starts)) and starts[0] == 0
    assert starts[-1] + window == clips or clips <= window
    assert all(later - earlier <= window - overlap for earlier, later in zip(starts, starts[1:]))


@pytest.mark.parametrize("window,overlap", [(0, 0), (4, 4), (4, -1)])
def test_windows_without_a_positive_step_are_rejected(window, overlap):
    with pytest.raises(ValueError, match="windows of"):
        window_starts(10, window, overlap)


@pytest.mark.parametrize("first", range(0, 90, 7))
def test_short_moment_is_found_once_at_any_position(first):
    (result,), _ = ask([[(first, first + 7, 1)]], clips=97, window_clips=16)
    assert windows_of(result) == [(first * CLIP, (first + 7) * CLIP)]


def test_moment_longer_than_a_window_is_joined():
    (result,), video = ask([[(5, 70, 1)]], clips=97, window_clips=16)
    assert result["moments"][0]["start"] == 5 * CLIP and result["moments"][0]["end"] == 70 * CLIP
    assert len(windows_of(result)) == 1
    np.testing.assert_allclose(result["saliency"], video[:, 0])


def test_neighboring_moments_are_not_joined():
    runs = [(3, 10, 1), (11, 20, 2), (40, 52, 1), (60, 62, 1)]
    (result,), _ = ask([runs], clips=97, window_clips=32)
    assert sorted(windows_of(result)) == [(a * CLIP, b * CLIP) for a, b, _ in runs]
    # The scores differ: the deepest run comes first.
    assert result["moments"][0]["start"] == 11 * CLIP


def test_batch_size_does_not_mix_queries():
    runs = [[(3, 9, 1)], [(50, 60, 1)], []]
    one, _ = ask(runs, clips=80, queries=3, window_clips=16, batch_size=1)
    many, _ = ask(runs, clips=80, queries=3, window_clips=16, batch_size=50)
    assert one == many
    assert [windows_of(result) for result in many] == [[(1.5, 4.5)], [(25.0, 30.0)], []]


def test_moments_end_at_the_end_of_the_video():
    (result,), _ = ask([[(90, 97, 1)]], clips=97, window_clips=16, duration=48.2)
    assert windows_of(result)[0] == (45.0, pytest.approx(48.2))


def test_top_k_and_threshold_apply_over_all_windows():
    runs = [(3, 9, 1), (30, 36, 3), (60, 66, 2)]
    (result,), _ = ask([runs], clips=97, window_clips=16, top_k=2)
    assert [m["start"] for m in result["moments"]] == [15.0, 30.0]
    (result,), _ = ask([runs], clips=97, window_clips=16, threshold=0.85)
    assert len(result["moments"]) == 2


def test_window_without_the_moment_ranks_below_the_one_with_it():
    """The class score is high in every window; only the saliency shows where the query matches."""

    class Overconfident(RunFinder):
        def forward(self, video_features, **inputs):
            outputs = super().forward(video_features, **inputs)
            outputs.saliency_scores = outputs.saliency_scores * 6 - 3
            is_empty = (video_features[..., 0] <= 0).all(dim=1)
            outputs.logits[is_empty, 0, 0] = 9.0
            return outputs

    video = np.zeros((97, 1), np.float32)
    video[30:36] = 1
    processor = MomentRetrievalProcessor(clip_length=CLIP, normalize_features=False)
    text = [np.zeros((1, 1), np.float32)]
    (result,) = find_moments(Overconfident(), processor, video, text, window_clips=16)
    assert (result["moments"][0]["start"], result["moments"][0]["end"]) == (15.0, 18.0)
    assert all(moment["score"] < 0.1 for moment in result["moments"][1:])
    # In a single window the score is the model's own.
    (result,) = find_moments(Overconfident(), processor, video[:16], text)
    assert result["moments"][0]["score"] == pytest.approx(torch.tensor([9.0, 0.0]).softmax(0)[0].item())


def test_no_window_is_longer_than_the_model_maximum():
    model, processor = (
        RunFinder(),
        MomentRetrievalProcessor(clip_length=CLIP, normalize_features=False, max_video_length=20),
    )
    find_moments(model, processor, np.ones((70, 1), np.float32), [np.zeros((1, 1), np.float32)])
    assert max(model.windows) == 20
    with pytest.raises(ValueError, match="max_video_length"):
        find_moments(model, processor, np.ones((70, 1), np.float32), [np.zeros((1, 1), np.float32)], window_clips=21)


def test_video_of_one_window_equals_the_processor_output():
    torch.manual_seed(0)
    config = QDDetrConfig(video_dim=6, text_dim=5, hidden_size=16, num_attention_heads=2, clip_length=CLIP)
    model, processor = QDDetrForMomentRetrieval(config), MomentRetrievalProcessor.from_config(config)
    rng = np.random.default_rng(0)
    video, texts = rng.standard_normal((23, 6), np.float32), [rng.standard_normal((n, 5), np.float32) for n in (3, 7)]
    found = find_moments(model.train(), processor, video, texts, duration=11.2, batch_size=2)
    assert model.training, "the mode of the model changed"

    inputs = processor([video, video], texts)
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    expected = processor.post_process_moment_retrieval(outputs, inputs["video_attention_mask"], durations=[11.2, 11.2])
    assert found == expected
    assert len(found[0]["moments"]) == config.num_queries and len(found[0]["saliency"]) == 23


@pytest.mark.parametrize("options,message", [({"overlap": 1.0}, "overlap"), ({"overlap": -0.1}, "overlap")])
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        ask([[]], clips=9, window_clips=4, **options)


def test_empty_video_and_wrong_width_are_rejected():
    with pytest.raises(ValueError, match="no clips"):
        ask([[]], clips=0)
    processor = MomentRetrievalProcessor(clip_length=CLIP, video_dim=3)
    with pytest.raises(ValueError, match="4 channels, but the model was built for 3"):
        find_moments(RunFinder(), processor, np.ones((5, 4), np.float32), [np.ones((1, 1), np.float32)])
