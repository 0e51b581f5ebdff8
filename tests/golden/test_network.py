"""The models and losses against the committed golden file (see network.py)."""

import pytest
import torch
from safetensors.torch import load_file

from .network import FILE, VARIANTS, make_inputs, make_model, measure_losses, measure_model

GOLDEN = load_file(FILE)


def recorded(prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in GOLDEN.items() if key.startswith(prefix)}


def check(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    # Gradients that are exactly zero in theory, e.g. those of key biases, are rounding errors.
    gradient_norm = torch.stack(
        [v[0] for k, v in want.items() if k.startswith("gradient.")] or [torch.ones(())]
    ).norm()
    for key, value in want.items():
        if key.startswith("gradient."):
            torch.testing.assert_close(got[key], value, rtol=1e-3, atol=2e-5 * gradient_norm.item(), msg=key)
        else:
            torch.testing.assert_close(got[key], value, rtol=1e-4, atol=5e-5, msg=key)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_losses_and_gradients_match_the_golden_file(variant, attention):
    check(measure_model(variant, attention), recorded(f"{variant}."))


def test_ranking_losses_and_gradients_match_the_golden_file():
    check(measure_losses(), recorded("losses."))


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_inputs_make_attention_and_spans_matter(variant):
    """Attention that is nearly uniform, or spans around 0.5, would hide most faults."""
    model, inputs = make_model(variant, "eager").eval(), make_inputs(variant)
    output = model(**inputs, output_attentions=True)
    for weights in (*output.encoder_attentions, *output.decoder_attentions, *output.cross_attentions):
        entropy = -(weights * weights.clamp(min=1e-9).log()).sum(-1)
        keys = (weights > 1e-6).sum(-1).clamp(min=2)
        assert (entropy / keys.log()).mean() < 0.9
    assert output.pred_spans.std(dim=1).mean() > 0.05
    assert (output.pred_spans - 0.5).abs().mean() > 0.15
