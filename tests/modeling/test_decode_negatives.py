"""`decode_negatives`: the decoder reads the negatives only if asked, and as if each were a query of its own."""

import pytest
import torch

from shine_hf import ShineLoss

from .helpers import batch, tiny_model

NAMES = ("qd_detr", "moment_detr")


@pytest.mark.parametrize("name", NAMES)
def test_negatives_are_decoded_like_queries(name):
    model, inputs = tiny_model(name).eval(), batch(with_labels=False)
    outputs = model(**inputs, decode_negatives=True)
    assert outputs.negative_logits.shape == (3, 2, 4, 2) and outputs.matched_candidates is None
    for index in range(2):
        alone = model(
            inputs["video_features"],
            inputs["video_attention_mask"],
            inputs["negative_text_features"][:, index],
            inputs["negative_text_attention_mask"][:, index],
        )
        torch.testing.assert_close(outputs.negative_logits[:, index], alone.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_outputs_are_unchanged(name):
    model = tiny_model(name, attn_implementation="eager").eval()
    asked = dict(output_hidden_states=True, output_attentions=True)
    plain, more = model(**batch(), **asked), model(**batch(), **asked, decode_negatives=True)
    assert more.matched_candidates.shape == (3, 4) and more.matched_candidates.sum(dim=1).tolist() == [1, 1, 1]
    same = {key: more[key] for key in plain}
    torch.testing.assert_close(same, dict(plain), atol=1e-5, rtol=1e-5)
    assert more.keys() - same.keys() == {"negative_logits", "matched_candidates"}


@pytest.mark.parametrize("name", NAMES)
def test_they_are_not_decoded_unless_asked(name):
    model, decoded = tiny_model(name).eval(), []
    model.model.decoder.layers[0].register_forward_pre_hook(lambda _, states: decoded.append(len(states[0])))
    outputs = model(**batch())
    assert decoded == [3] and outputs.negative_logits is None and outputs.matched_candidates is None
    model(**batch(), decode_negatives=True)
    model(**batch(negatives=0, with_labels=False), decode_negatives=True)
    assert decoded == [3, 9, 3]


@pytest.mark.parametrize("form", ["background", "ranking"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_reaches_encoder_decoder_and_the_text_of_the_negatives(name, form):
    model, inputs = tiny_model(name, dropout=0.0, input_dropout=0.0), batch()
    texts = [inputs[key].requires_grad_() for key in ("text_features", "negative_text_features")]
    outputs = model(**inputs, decode_negatives=True)
    loss, _ = ShineLoss(
        coarse_weight=0.0,
        fine_weight=0.0,
        decoder_negative_weight=1.0,
        decoder_negative_form=form,
        fine_margins=(0.1, 0.1),
    )(
        outputs.saliency_scores,
        outputs.negative_saliency_scores,
        inputs["labels"]["saliency"],
        inputs["video_attention_mask"],
        **{key: outputs[key] for key in ("logits", "negative_logits", "matched_candidates")},
    )
    of_query, of_negatives = torch.autograd.grad(loss, texts, retain_graph=True, allow_unused=True)
    assert of_negatives.abs().sum(dim=(0, 2, 3)).gt(0).all()
    assert (of_query is not None and bool(of_query.any())) == (form == "ranking")
    loss.backward()
    trained = {key for key, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    for part in ("video_projection", "text_projection", "encoder.0", "decoder.layers.1", "class_head"):
        assert any(part in key for key in trained), part
