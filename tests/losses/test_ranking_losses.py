"""The SHINE losses on cases with values computed by hand."""

import pytest
import torch

from shine_hf import ShineLoss, coarse_ranking_loss, fine_ranking_loss
from shine_hf.losses.fine_ranking import COMPARISONS, DISTANCES


def test_coarse_loss_equals_a_value_computed_by_hand():
    scores = torch.tensor([[3.0, 1.0, 0.5, 9.0]])
    irrelevant = torch.tensor([[0.0, 2.0, 7.0, 9.0]])
    labels, mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1, 1, 1, 0]])
    loss = coarse_ranking_loss(scores, irrelevant, labels, mask, top_k_divisor=2)
    # k = 1: inside 3, outside 0.5 (the padded 9 does not count), irrelevant 2.
    assert loss.intra.item() == 0 and loss.inter.item() == pytest.approx(2 + 2 - 3)
    both = coarse_ranking_loss(scores, irrelevant, labels, mask, top_k_divisor=1)
    # k = 2: inside 2, irrelevant 1.
    assert both.intra.item() == 0 and both.inter.item() == pytest.approx(2 + 1 - 2)


def test_coarse_loss_handles_full_video_and_missing_moments():
    scores = torch.tensor([[2.0, 1.0], [5.0, 5.0]])
    labels, mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2, 2)
    loss = coarse_ranking_loss(scores, torch.zeros(2, 2), labels, mask)
    # In the first row nothing is outside, so the first clip is used; the second row has no moment and no term.
    assert loss.intra.item() == pytest.approx(1 + 2 - 2) and loss.inter.item() == pytest.approx(2 + 0 - 2)
    nothing = coarse_ranking_loss(scores, scores, torch.zeros(2, 2), mask)
    assert nothing.intra.item() == 0 and nothing.inter.item() == 0


def test_soft_labels_count_as_inside_from_one_half():
    hard, soft = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.4, 0.5, 0.1]])
    scores, mask = torch.tensor([[0.3, 0.1, 0.2]]), torch.ones(1, 3)
    assert coarse_ranking_loss(scores, scores, hard, mask) == coarse_ranking_loss(scores, scores, soft, mask)


def distances(scores, negatives, labels):
    to_query = -(labels * scores.sigmoid().log()).mean()
    return [to_query, *(-(scores.sigmoid() * n.sigmoid().log()).mean() for n in negatives)]


@pytest.mark.parametrize("compare_to", COMPARISONS)
def test_fine_loss_equals_a_value_computed_by_hand(compare_to):
    torch.manual_seed(0)
    scores, negatives, labels = torch.randn(1, 5), torch.randn(1, 3, 5), torch.tensor([[0, 1.0, 1, 0, 0]])
    d = distances(scores[0], negatives[0], labels[0])
    margins = (0.1, 0.2, 0.3)
    nearer = {"previous": [d[0], d[1], d[2]], "first": [d[0], d[1], d[1]], "query": [d[0], d[0], d[0]]}[compare_to]
    reached = (0.1, 0.3, 0.6) if compare_to == "query" else margins
    want = sum((m + a - b).relu() for m, a, b in zip(reached, nearer, d[1:]))
    got = fine_ranking_loss(scores, negatives, labels, torch.ones(1, 5), margins=margins, compare_to=compare_to)
    assert got.item() == pytest.approx(want.item(), rel=1e-4)


@pytest.mark.parametrize("distance", DISTANCES)
def test_hard_negatives_have_no_gradient_in_a_chain_until_a_margin_is_kept(distance):
    torch.manual_seed(0)
    scores, labels, mask = 0.01 * torch.randn(1, 5), torch.tensor([[0, 1.0, 1, 0, 0]]), torch.ones(1, 5)
    gradients = {}
    for compare_to in ("previous", "query"):
        negatives = (0.01 * torch.randn(1, 4, 5)).requires_grad_()
        fine_ranking_loss(
            scores, negatives, labels, mask, margins=(1.0,) * 4, compare_to=compare_to, distance=distance
        ).backward()
        gradients[compare_to] = negatives.grad[0].abs().sum(dim=-1)
    assert gradients["previous"][:3].tolist() == [0, 0, 0] and gradients["previous"][3] > 0
    assert (gradients["query"] > 0).all()


def test_fine_loss_can_compare_saliency_directly():
    scores = torch.tensor([[0.0, 3.0, 1.0, 9.0]])
    negatives = torch.tensor([[[5.0, 1.0, 2.0, 0.0], [5.0, 2.0, 2.0, 0.0], [0.0, -1.0, -2.0, 9.0]]])
    labels, mask = torch.tensor([[0, 1.0, 1, 1]]), torch.tensor([[1, 1, 1, 0]])
    arguments = dict(margins=(0.6, 0.25, 0.25), distance="saliency")
    # Means inside the moment, without padding: query 2, levels 1.5 and 2, irrelevant -1.5.
    want = (0.6 + 1.5 - 2) + (0.25 + 2 - 1.5) + 0
    assert fine_ranking_loss(scores, negatives, labels, mask, **arguments).item() == pytest.approx(want)
    # The paper's distances barely depend on the negatives if all scores are low; these do.
    low = [(scores - 6).requires_grad_(), (negatives - 6).requires_grad_()]
    shares = []
    for distance in ("cross_entropy", "saliency"):
        loss = fine_ranking_loss(*low, labels, mask, margins=(1.0, 1.0, 1.0), distance=distance)
        of_query, of_negatives = (gradient.abs().sum() for gradient in torch.autograd.grad(loss, low))
        shares.append((of_negatives / of_query).item())
    assert shares[0] < 0.2 and shares[1] > 0.9
    assert fine_ranking_loss(*low, labels, mask, **arguments).item() == pytest.approx(want)
    with pytest.raises(ValueError, match="distance must be one of cross_entropy, saliency, standardized_saliency"):
        fine_ranking_loss(scores, negatives, labels, mask, margins=(1.0, 1.0, 1.0), distance="euclid")


def test_standardized_saliency_does_not_depend_on_shift_and_scale():
    scores = torch.tensor([[0.0, 3.0, 1.0, torch.nan]])
    negatives = torch.tensor([[[5.0, 1.0, 2.0, 0.0], [0.0, -1.0, -2.0, 9.0]]])
    labels, mask = torch.tensor([[0, 1.0, 1, 1]]), torch.tensor([[1, 1, 1, 0]])
    arguments = dict(margins=(1.0, 1.0), distance="standardized_saliency")
    # Means inside the moment, without padding: query 2, level 1.5, irrelevant -1.5; standard deviation of 0, 3 and 1.
    deviation = (14 / 9) ** 0.5
    want = 1 + (1.5 - 2) / deviation + max(0, 1 + (-1.5 - 1.5) / deviation)
    assert fine_ranking_loss(scores, negatives, labels, mask, **arguments).item() == pytest.approx(want, rel=1e-5)
    moved = fine_ranking_loss(7 * scores - 30, 7 * negatives - 30, labels, mask, **arguments)
    assert moved.item() == pytest.approx(want, rel=1e-5)
    # Constant saliency has no scale; the loss and its gradient must stay finite.
    flat = torch.zeros(1, 4, requires_grad=True)
    loss = fine_ranking_loss(flat, torch.zeros(1, 2, 4), labels, mask, **arguments)
    loss.backward()
    assert loss.item() == pytest.approx(2) and flat.grad.isfinite().all()


@pytest.mark.parametrize("compare_to", COMPARISONS)
@pytest.mark.parametrize("absent", [0, 1, 2, 3])
def test_absent_level_is_skipped_in_the_chain(absent, compare_to):
    torch.manual_seed(1)
    scores, negatives, labels = torch.randn(2, 6), torch.randn(2, 4, 6), torch.tensor([[0, 1.0, 1, 0, 0, 0]] * 2)
    margins = (0.5, 0.6, 0.7, 0.8)
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[:, absent] = False
    kept = [n for n in range(4) if n != absent]
    arguments = dict(saliency_labels=labels, video_attention_mask=torch.ones(2, 6), compare_to=compare_to)
    masked = fine_ranking_loss(scores, negatives, negative_mask=mask, margins=margins, **arguments)
    without = fine_ranking_loss(scores, negatives[:, kept], margins=tuple(margins[n] for n in kept), **arguments)
    assert masked.item() == pytest.approx(without.item(), rel=1e-6)
    changed = negatives.clone()
    changed[:, absent] += 3
    again = fine_ranking_loss(scores, changed, negative_mask=mask, margins=margins, **arguments)
    assert again.item() == masked.item()


def test_each_hinge_is_averaged_over_its_rows():
    torch.manual_seed(2)
    scores, negatives, labels = torch.randn(2, 6), torch.randn(2, 2, 6), torch.tensor([[0, 1.0, 1, 0, 0, 0]] * 2)
    mask = torch.tensor([[True, True], [False, False]])
    margins = (9.0, 9.0)
    both = fine_ranking_loss(scores, negatives, labels, torch.ones(2, 6), margins=margins, negative_mask=mask)
    first = fine_ranking_loss(scores[:1], negatives[:1], labels[:1], torch.ones(1, 6), margins=margins)
    assert both.item() == pytest.approx(first.item())


def test_positive_scores_get_no_gradient_from_negative_hinges():
    scores = torch.randn(1, 4, requires_grad=True)
    negatives = torch.randn(1, 2, 4, requires_grad=True)
    labels, mask = torch.tensor([[0.0, 1, 0, 0]]), torch.ones(1, 4)
    # If only the second hinge is active, no gradient reaches the positive scores.
    loss = fine_ranking_loss(scores, negatives, labels, mask, margins=(-100.0, 100.0))
    loss.backward()
    assert not scores.grad.any() and negatives.grad.any()


def test_padding_does_not_change_the_losses():
    torch.manual_seed(3)
    scores, negatives = torch.randn(2, 6), torch.randn(2, 4, 6)
    labels, mask = torch.tensor([[0, 1.0, 1, 0, 0, 0]] * 2), torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    loss = ShineLoss()
    total, terms = loss(scores, negatives, labels, mask)
    cut, _ = loss(scores[:, :4], negatives[..., :4], labels[:, :4], mask[:, :4])
    scores[:, 4:], negatives[..., 4:] = torch.inf, torch.nan
    spoiled, _ = loss(scores, negatives, labels, mask)
    assert total.item() == pytest.approx(cut.item()) == pytest.approx(spoiled.item())
    assert total.item() == pytest.approx(sum(value.item() for value in terms.values()))


def test_weights_select_the_losses():
    scores, negatives, labels, mask = torch.randn(2, 6), torch.randn(2, 4, 6), torch.ones(2, 6), torch.ones(2, 6)
    assert set(ShineLoss(fine_weight=0)(scores, negatives, labels, mask)[1]) == {
        "loss_coarse_intra",
        "loss_coarse_inter",
    }
    assert set(ShineLoss(coarse_weight=0)(scores, negatives, labels, mask)[1]) == {"loss_fine"}
    # Only the irrelevant query: there is nothing to rank for the fine loss.
    assert "loss_fine" not in ShineLoss()(scores, negatives[:, :1], labels, mask)[1]
    double, terms = ShineLoss(coarse_weight=2, fine_weight=0)(scores, negatives, labels, mask)
    assert double.item() == pytest.approx(2 * sum(v.item() for v in terms.values()))


def test_invalid_settings_are_rejected():
    scores, negatives, labels = torch.randn(1, 4), torch.randn(1, 3, 4), torch.ones(1, 4)
    with pytest.raises(ValueError, match="2 margins for 3 negatives"):
        fine_ranking_loss(scores, negatives, labels, labels, margins=(1.0, 1.0))
    with pytest.raises(ValueError, match="compare_to"):
        fine_ranking_loss(scores, negatives, labels, labels, margins=(1.0,) * 3, compare_to="last")
    with pytest.raises(ValueError, match="top_k_divisor"):
        coarse_ranking_loss(scores, scores, labels, labels, top_k_divisor=0)
    with pytest.raises(ValueError, match="fine_margins"):
        ShineLoss(fine_margins=(0.1, 0.2))(scores, negatives, labels, labels)


def test_losses_do_not_synchronize_with_the_host():
    """Run the ranking losses and the matching on the meta device, where `.item()` or `.cpu()` raises."""
    from shine_hf import QDDetrConfig
    from shine_hf.modeling.moment_retrieval_loss import match_windows

    meta = dict(device="meta")
    scores, negatives = torch.empty(2, 6, **meta), torch.empty(2, 4, 6, **meta)
    labels, mask = torch.empty(2, 6, **meta), torch.empty(2, 6, **meta)
    total, _ = ShineLoss()(scores, negatives, labels, mask, negative_mask=torch.empty(2, 4, dtype=torch.bool, **meta))
    assert total.device.type == "meta"
    index, _ = match_windows(
        torch.empty(2, 2, 5, 2, **meta),
        torch.empty(2, 2, 5, 2, **meta),
        torch.empty(2, 1, 2, **meta),
        torch.empty(2, 1, dtype=torch.bool, **meta),
        QDDetrConfig(),
    )
    assert index.shape == (2, 2, 1)
