"""Losses, matching, positions and decoding against the golden files."""

import json

import pytest
import torch

from shine_hf import (
    MomentRetrievalProcessor,
    QDDetrConfig,
    coarse_ranking_loss,
    fine_ranking_loss,
)
from shine_hf.data.targets import clip_windows, saliency_targets, span_targets
from shine_hf.modeling.layers import anchor_position_embedding, clip_position_embedding
from shine_hf.modeling.moment_retrieval_loss import (
    loss_counts,
    match_windows,
    mean_terms,
    saliency_sums,
    span_and_label_sums,
    weigh_losses,
)
from shine_hf.modeling.processing_moment_retrieval import temporal_nms

from .reference import Golden, targets


@pytest.fixture(scope="session")
def folder(shared):
    return shared / "golden"


class Scores:
    """The score tensors of a `losses_*` file, with gradients."""

    def __init__(self, folder, name):
        self.golden = Golden.load(folder, name)
        tensors, settings = self.golden.tensors, self.golden.doc["settings"]
        self.raw = {
            key: tensors[key].clone().requires_grad_()
            for key in ("saliency_scores", "saliency_scores_hn", "saliency_scores_neg")
        }
        self.positive, self.irrelevant = self.raw["saliency_scores"], self.raw["saliency_scores_neg"]
        batch = len(self.positive)
        hard = self.raw["saliency_scores_hn"].unflatten(0, (-1, batch)).transpose(0, 1)
        self.negatives = torch.cat([hard, self.irrelevant.unsqueeze(1)], dim=1)
        self.labels, self.mask = tensors["targets.saliency_all_labels"].float(), tensors["video_mask"]
        self.settings = settings

    def coarse(self):
        return coarse_ranking_loss(
            self.positive,
            self.irrelevant,
            self.labels,
            self.mask,
            intra_margin=self.settings["coarse_margin"][0],
            inter_margin=self.settings["coarse_margin"][1],
            top_k_divisor=self.settings["q"],
        )

    def fine(self, compare_to):
        return fine_ranking_loss(
            self.positive,
            self.negatives,
            self.labels,
            self.mask,
            margins=tuple(self.settings["fine_margin"]),
            compare_to=compare_to,
        )

    def base(self, irrelevant=True, pairs=True):
        labels = {"saliency": self.labels, "span_mask": torch.ones(len(self.positive), 1)}
        if pairs:
            labels["positive_clips"] = self.golden.tensors["targets.saliency_pos_labels"].long()
            labels["negative_clips"] = self.golden.tensors["targets.saliency_neg_labels"].long()
        config = QDDetrConfig(saliency_margin=self.settings["saliency_margin"])
        mask = torch.ones(len(self.positive), dtype=torch.bool)
        sums = saliency_sums(self.positive, self.irrelevant if irrelevant else None, mask, labels, self.mask, config)
        return weigh_losses(mean_terms(sums, loss_counts(labels, mask, config.num_queries)), config)[1]

    def check_gradients(self, loss, name):
        loss.backward()
        for key, tensor in self.raw.items():
            want = self.golden.tensors[f"grad.{name}.{key}"]
            got = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-3)
            tensor.grad = None


@pytest.mark.parametrize("name", ["losses_charades", "losses_other_margins", "losses_ties"])
def test_ranking_losses_match_the_reference(folder, name):
    scores = Scores(folder, name)
    want = scores.golden.doc["values"]
    coarse = scores.coarse()
    assert coarse.intra.item() == pytest.approx(want["coarse_intra"], rel=1e-5)
    assert coarse.inter.item() == pytest.approx(want["coarse_inter"], rel=1e-5)
    for compare_to, recorded in (("previous", "fine_red"), ("first", "fine_abd")):
        fine = scores.fine(compare_to)
        assert fine.item() == pytest.approx(want[recorded], rel=1e-5)
        if name != "losses_ties":
            scores.check_gradients(fine, recorded)
    if name != "losses_ties":
        scores.check_gradients(coarse.intra + coarse.inter, "coarse")


@pytest.mark.parametrize("name", ["losses_charades", "losses_other_margins", "losses_graded", "losses_ties"])
def test_saliency_terms_of_the_base_loss_match_the_reference(folder, name):
    scores = Scores(folder, name)
    want = scores.golden.doc["values"]
    terms = scores.base()
    assert terms["loss_saliency_negative_pair"].item() == pytest.approx(want["saliency_neg_pair"], rel=1e-5)
    assert terms["loss_saliency_rank_contrastive"].item() == pytest.approx(want["saliency_rank_contrastive"], rel=1e-5)
    assert terms["loss_saliency_margin"].item() == pytest.approx(want["saliency_margin_pairs"], rel=1e-5)
    assert terms["loss_saliency"].item() == pytest.approx(want["qd_detr_loss_saliency"], rel=1e-5)
    moment_detr = scores.base(irrelevant=False)["loss_saliency"]
    assert moment_detr.item() == pytest.approx(want["moment_detr_loss_saliency"], rel=1e-5)
    if name != "losses_ties":
        scores.check_gradients(terms["loss_saliency"], "qd_detr_loss_saliency")


@pytest.mark.parametrize("name", ["matcher_a", "matcher_b"])
def test_matching_and_span_losses_match_the_reference(folder, name):
    golden = Golden.load(folder, name)
    labels = targets(golden.tensors | {"targets.saliency_all_labels": torch.zeros(1)}, with_margin_pairs=False)
    logits = golden.tensors["pred_logits"].clone().requires_grad_()
    spans = golden.tensors["pred_spans"].clone().requires_grad_()
    config = QDDetrConfig()
    index, has_candidate = match_windows(logits[None], spans[None], labels["spans"], labels["span_mask"], config)
    for row, want in enumerate(golden.doc["matcher"]):
        pairs = {(index[0, row, t].item(), t) for t in has_candidate[0, row].nonzero().flatten().tolist()}
        assert pairs == set(zip(want["queries"], want["targets"]))
    sums, _ = span_and_label_sums(logits[None], spans[None], labels["spans"], labels["span_mask"], config)
    losses = mean_terms(sums, loss_counts(labels, None, logits.shape[1]))
    for key in ("loss_span", "loss_giou", "loss_label"):
        assert losses[key].item() == pytest.approx(golden.doc["losses"][key], rel=1e-5)
        inputs, tensor = ("pred_logits", logits) if key == "loss_label" else ("pred_spans", spans)
        (gradient,) = torch.autograd.grad(losses[key].sum(), tensor, retain_graph=True)
        torch.testing.assert_close(gradient, golden.tensors[f"grad.{key}.{inputs}"], atol=1e-6, rtol=1e-4)


def test_position_embeddings_match_the_reference(folder):
    recorded = Golden.load(folder, "positions").tensors
    torch.testing.assert_close(
        clip_position_embedding(recorded["mask"], 256), recorded["video_position"], atol=2e-5, rtol=0
    )
    torch.testing.assert_close(
        anchor_position_embedding(recorded["anchors"], 256), recorded["anchor_embedding"], atol=2e-5, rtol=0
    )


def test_decoding_matches_the_reference(folder):
    """Ranking, windows and NMS are equal. The reference scales by the duration, we by the length that the clips cover."""
    golden = Golden.load(folder, "decode")
    tensors, clip_length = golden.tensors, golden.doc["clip_length"]
    processor = MomentRetrievalProcessor(clip_length=clip_length)
    for row, want in enumerate(golden.doc["rows"]):
        mask = tensors["video_mask"][row : row + 1]
        inputs = (tensors["pred_logits"][row : row + 1], tensors["pred_spans"][row : row + 1], mask)
        covered = want["clips"] * clip_length
        expected = torch.tensor(want["ranked_windows"])
        expected[:, :2] = (expected[:, :2] * covered / want["duration"]).clamp(0, covered)
        moments = processor.decode_moments(*inputs)[0]
        torch.testing.assert_close(moments, expected, atol=2e-4, rtol=0)
        ranked = torch.tensor(want["ranked_windows"]).unsqueeze(0)
        for threshold, survivors in want["after_nms"].items():
            kept = temporal_nms(ranked, float(threshold))[0]
            kept = kept[kept[:, 2] >= 0]
            torch.testing.assert_close(kept, torch.tensor(survivors), atol=1e-6, rtol=0)


def test_labels_match_the_reference(folder):
    """Spans are equal for windows inside the video, and clips are equal up to the partly covered last one."""
    for row in json.loads((folder / "labels.json").read_text())["rows"]:
        clips, clip_length = row["clips"], row["clip_length"]
        windows = clip_windows(row["windows_seconds"], clips, clip_length)
        if all(end <= clips * clip_length for _, end in row["windows_seconds"]):
            ours = span_targets(windows, clips, clip_length)
            torch.testing.assert_close(
                torch.from_numpy(ours), torch.tensor(row["spans_center_width"]), atol=1e-6, rtol=0
            )
        if len(windows) == 1 and len(row["windows_seconds"]) == 1:
            start, end = (value / clip_length for value in windows[0])
            inside = set(saliency_targets(windows, clips, clip_length).nonzero()[0].tolist())
            whole = {clip for clip in row["positive_clips"] if clip >= int(start) and clip < end}
            assert whole <= inside <= whole | {int(start), int(end)}
