"""The contrast between the query and its negatives on each clip, on cases with values computed by hand."""

import math

import pytest
import torch

from shine_hf import ShineLoss
from shine_hf.losses.clip_contrast import clip_contrast_sums

SCORES = torch.tensor([[9.0, math.log(2), 0.0, 9.0]])
NEGATIVES = torch.tensor([[[9.0, 0.0, math.log(3), 9.0], [9.0, 0.0, math.log(5), 9.0]]])
LABELS, MASK = torch.tensor([[0.0, 1, 1, 1]]), torch.tensor([[1, 1, 1, 0]])


def contrast(scores=SCORES, negatives=NEGATIVES, present=(True, True), **more):
    return clip_contrast_sums(scores, negatives, LABELS, MASK, torch.tensor([present]), **more).item()


def test_it_equals_a_value_computed_by_hand():
    # Two clips inside (the last one is padding): the query has 2 of 2 + 1 + 1, and 1 of 1 + 3 + 5.
    assert contrast() == pytest.approx((math.log(2) + math.log(9)) / 2)
    assert contrast(present=(True, False)) == pytest.approx((math.log(3 / 2) + math.log(4)) / 2)
    assert contrast(present=(False, False)) == pytest.approx(0, abs=1e-6)
    weights = torch.tensor([[1.0, 0.5]])
    assert contrast(negative_weights=weights) == pytest.approx((math.log(3.5 / 2) + math.log(6.5)) / 2)


def test_low_saliency_gives_the_negatives_as_much_gradient_as_the_query():
    scores, negatives = (SCORES - 50).requires_grad_(), (NEGATIVES - 50).requires_grad_()
    loss = clip_contrast_sums(scores, negatives, LABELS, MASK, torch.tensor([[True, True]]))
    assert loss.item() == pytest.approx(contrast(), rel=1e-5)
    of_query, of_negatives = torch.autograd.grad(loss, (scores, negatives))
    assert (of_query.sum() + of_negatives.sum()).abs() < 1e-5
    assert of_query[0, 1:3].tolist() == pytest.approx([-0.25, -8 / 18], rel=1e-4)
    assert not of_query[0, [0, 3]].any() and not of_negatives[0, :, [0, 3]].any()


def test_absent_negatives_get_a_finite_gradient():
    negatives = NEGATIVES.clone().requires_grad_()
    loss = clip_contrast_sums(SCORES, negatives, LABELS, MASK, torch.tensor([[True, False]]))
    loss.sum().backward()
    assert negatives.grad.isfinite().all() and negatives.grad[0, 0].any() and not negatives.grad[0, 1].any()


def test_shine_loss_adds_it_with_its_weight_and_averages_over_rows_that_have_it():
    rows = dict(
        saliency_scores=SCORES.repeat(3, 1),
        negative_saliency_scores=NEGATIVES.repeat(3, 1, 1),
        saliency_labels=LABELS * torch.tensor([[1.0], [1.0], [0.0]]),
        video_attention_mask=MASK.repeat(3, 1),
        negative_mask=torch.tensor([[True, True], [False, False], [True, True]]),
    )
    total, terms = ShineLoss(coarse_weight=0.0, fine_weight=0.0, clip_contrast_weight=2.0)(**rows)
    assert terms.keys() == {"loss_clip_contrast"}
    assert terms["loss_clip_contrast"].item() == pytest.approx(contrast())
    assert total.item() == pytest.approx(2 * contrast())
