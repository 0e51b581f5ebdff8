"""Hard negatives for the decoder, on cases with values computed by hand."""

import math

import pytest
import torch

from shine_hf import ShineLoss
from shine_hf.losses.decoder_negatives import decoder_negative_hinges


def class_scores(*foreground: float) -> torch.Tensor:
    """Return logits `(Q, 2)` with these probabilities of the foreground."""
    probability = torch.tensor(foreground)
    return torch.stack([probability, 1 - probability], dim=-1).log() + 3  # A constant changes no probability.


LOGITS = torch.stack([class_scores(0.5, 0.2, 0.8)])
NEGATIVE_LOGITS = torch.stack([torch.stack([class_scores(0.5, 0.2, 0.2), class_scores(0.8, 0.2, 0.2)])])
MATCHED = torch.tensor([[True, False, False]])


def test_background_form_equals_a_value_computed_by_hand():
    found = decoder_negative_hinges(LOGITS, NEGATIVE_LOGITS, None, form="background")
    want = [-math.log(0.5 * 0.8 * 0.8) / 3, -math.log(0.2 * 0.8 * 0.8) / 3]
    assert found.tolist() == [pytest.approx(want)]


def test_ranking_form_equals_a_value_computed_by_hand():
    found = decoder_negative_hinges(LOGITS, NEGATIVE_LOGITS, MATCHED, form="ranking", margin=0.5)
    # Log-odds: matched candidate 0; best candidates under the negatives 0 and log 4. The third candidate, log 4, is not matched.
    assert found.tolist() == [pytest.approx([0.5, 0.5 + math.log(4)])]
    both = decoder_negative_hinges(
        LOGITS, NEGATIVE_LOGITS, torch.tensor([[True, False, True]]), form="ranking", margin=0.5
    )
    assert both.tolist() == [pytest.approx([0.5 - math.log(4) / 2 if math.log(4) < 1 else 0, 0.5 + math.log(4) / 2])]


def test_ranking_without_a_match_has_neither_loss_nor_gradient():
    logits, negatives = LOGITS.clone().requires_grad_(), NEGATIVE_LOGITS.clone().requires_grad_()
    hinges = decoder_negative_hinges(logits, negatives, torch.zeros(1, 3, dtype=torch.bool), form="ranking")
    hinges.sum().backward()
    assert hinges.tolist() == [[0, 0]] and not logits.grad.any() and not negatives.grad.any()


def test_background_form_trains_only_the_negatives_and_ranking_both_sides():
    for form, moved in (("background", [0.0, 0.0, 0.0]), ("ranking", [-2.0, 0.0, 0.0])):
        logits, negatives = LOGITS.clone().requires_grad_(), NEGATIVE_LOGITS.clone().requires_grad_()
        loss = decoder_negative_hinges(logits, negatives, MATCHED, form=form).sum()
        of_query, of_negatives = torch.autograd.grad(loss, (logits, negatives), allow_unused=True)
        assert ([0.0] * 3 if of_query is None else of_query[0, :, 0].tolist()) == moved
        # The more probable a candidate is, the more the loss lowers it; the ranking lowers only the best one.
        lowered = of_negatives[0, 1, :, 0]
        assert lowered[0] > 3.9 * lowered[1] and bool(lowered[1]) == (form == "background")


def arguments(rows: int = 1, levels: int = 3) -> dict:
    """Return the inputs of ShineLoss, in which every candidate has even odds under every sentence."""
    labels = torch.tensor([[0.0, 1, 1, 0]]).expand(rows, -1)
    return {
        "saliency_scores": torch.zeros(rows, 4),
        "negative_saliency_scores": torch.zeros(rows, levels + 1, 4),
        "saliency_labels": labels,
        "video_attention_mask": torch.ones(rows, 4),
        "logits": torch.zeros(rows, 3, 2),
        "negative_logits": torch.zeros(rows, levels + 1, 3, 2),
        "matched_candidates": torch.tensor([[True, False, False]]).expand(rows, -1),
    }


ONLY_DECODER = {"coarse_weight": 0.0, "fine_weight": 0.0, "decoder_negative_weight": 0.5}


@pytest.mark.parametrize(("form", "each"), [("background", math.log(2)), ("ranking", 0.3)])
def test_farther_levels_count_more(form, each):
    loss = ShineLoss(**ONLY_DECODER, decoder_negative_form=form, decoder_negative_margin=0.3)
    total, terms = loss(**arguments())
    assert terms.keys() == {"loss_decoder_negative"}
    assert terms["loss_decoder_negative"].item() == pytest.approx(each * (1 / 4 + 2 / 4 + 3 / 4 + 1))
    assert total.item() == pytest.approx(0.5 * terms["loss_decoder_negative"].item())
    # With fewer levels than margins, those that are there have the same weights.
    assert loss(**arguments(levels=1))[0].item() == pytest.approx(0.5 * each * (1 / 4 + 1))


def test_every_level_is_averaged_over_the_samples_that_have_it():
    inputs = arguments(rows=2)
    inputs["negative_logits"][1, 0] += torch.tensor([50.0, 0.0])
    inputs["negative_mask"] = torch.tensor([[True] * 4, [False, False, True, True]])
    total, _ = ShineLoss(**ONLY_DECODER)(**inputs)
    assert total.item() == pytest.approx(0.5 * math.log(2) * 2.5)
    # A sample without a moment has no term.
    inputs["saliency_labels"] = inputs["saliency_labels"] * torch.tensor([[1.0], [0.0]])
    inputs["negative_logits"][1] += torch.tensor([50.0, 0.0])
    assert ShineLoss(**ONLY_DECODER)(**inputs)[0].item() == pytest.approx(total.item())


def test_weights_of_negatives_multiply_their_losses():
    weights = torch.tensor([[0.0, 0.5, 1.0, 1.0]])
    total, _ = ShineLoss(**ONLY_DECODER)(**arguments(), negative_weights=weights)
    assert total.item() == pytest.approx(0.5 * math.log(2) * (0.5 * 2 / 4 + 3 / 4 + 1))
    # In the fine loss, each hinge is that of its farther negative; all saliency is equal here, so each hinge is its margin.
    fine = ShineLoss(coarse_weight=0.0, fine_distance="saliency", fine_margins=(0.1, 0.2, 0.3, 0.4))
    assert fine(**arguments(), negative_weights=weights)[0].item() == pytest.approx(0.5 * 0.2 + 0.3 + 0.4)
    # The coarse loss does not use hard negatives.
    coarse = ShineLoss(fine_weight=0.0)
    assert coarse(**arguments(), negative_weights=weights)[0].item() == coarse(**arguments())[0].item()


def test_it_is_off_by_default_and_invalid_uses_are_rejected():
    inputs = arguments()
    assert ShineLoss()(**inputs)[1].keys() == {"loss_coarse_intra", "loss_coarse_inter", "loss_fine"}
    with pytest.raises(ValueError, match="decoder_negative_form must be one of background, ranking, got 'none'"):
        ShineLoss(**ONLY_DECODER, decoder_negative_form="none")(**inputs)
    inputs["matched_candidates"] = None
    with pytest.raises(ValueError, match="for the ranking form also matched_candidates"):
        ShineLoss(**ONLY_DECODER, decoder_negative_form="ranking")(**inputs)
    inputs["negative_logits"] = None
    with pytest.raises(ValueError, match="needs a model that returns logits and negative_logits"):
        ShineLoss(**ONLY_DECODER)(**inputs)
