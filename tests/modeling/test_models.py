"""Model behavior that the golden files do not cover."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel

from shine_hf import QDDetrConfig

from .helpers import CLASSES, batch, tiny_model

NAMES = list(CLASSES)


def take(inputs, index, clips, tokens):
    """Return one sample of a batch without its padding."""
    single = {
        "video_features": inputs["video_features"][index : index + 1, :clips],
        "video_attention_mask": inputs["video_attention_mask"][index : index + 1, :clips],
        "text_features": inputs["text_features"][index : index + 1, :tokens],
        "text_attention_mask": inputs["text_attention_mask"][index : index + 1, :tokens],
    }
    if "negative_text_features" in inputs:
        single["negative_text_features"] = inputs["negative_text_features"][index : index + 1]
        single["negative_text_attention_mask"] = inputs["negative_text_attention_mask"][index : index + 1]
    return single


@pytest.mark.parametrize("name", NAMES)
def test_sample_gives_the_same_output_in_any_batch(name):
    model = tiny_model(name).eval()
    inputs = batch(with_labels=False)
    together = model(**inputs)
    alone = model(**take(inputs, 1, clips=5, tokens=3))
    torch.testing.assert_close(alone.pred_spans[0], together.pred_spans[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.saliency_scores[0], together.saliency_scores[1, :5], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        alone.negative_saliency_scores[0], together.negative_saliency_scores[1, :, :5], atol=1e-5, rtol=1e-4
    )


def test_coupled_mask_of_the_public_code_lets_samples_influence_each_other():
    model = tiny_model("qd_detr", batch_coupled_text_mask=True).eval()
    # The second head of the first sample uses the mask of the second sample, whose video and query are shorter.
    inputs = batch(with_labels=False, negatives=0)
    together = model(**inputs).saliency_scores[0]
    alone = model(**take(inputs, 0, clips=9, tokens=6)).saliency_scores[0]
    assert (together - alone).abs().max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_negatives_do_not_change_the_positive_outputs(name):
    model = tiny_model(name).eval()
    with_negatives = model(**batch(with_labels=False))
    without = model(**batch(with_labels=False, negatives=0))
    torch.testing.assert_close(without.pred_spans, with_negatives.pred_spans, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(without.saliency_scores, with_negatives.saliency_scores, atol=1e-6, rtol=1e-5)
    assert without.negative_saliency_scores is None and with_negatives.negative_saliency_scores.shape == (3, 2, 9)


@pytest.mark.parametrize("name", NAMES)
def test_sdpa_and_eager_agree(name):
    eager = tiny_model(name, attn_implementation="eager").eval()
    sdpa = tiny_model(name, attn_implementation="sdpa").eval()
    sdpa.load_state_dict(eager.state_dict())
    ours, theirs = sdpa(**batch()), eager(**batch())
    torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.negative_saliency_scores, theirs.negative_saliency_scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained(name):
    model = tiny_model(name, dropout=0.0, input_dropout=0.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        output = model(**batch())
        (output.loss + output.negative_saliency_scores.sum()).backward()
        optimizer.step()
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    # Key biases cancel in the softmax. The first decoder layer starts from zero content, so nothing distinguishes the
    # values that its self-attention mixes, and (in QD-DETR) its content projections see only zeros.
    cannot = (
        "k_proj.bias",
        "k_content_proj.bias",
        "k_position_proj.bias",
        "layers.0.self_attention",
        "layers.0.cross_attention.q_content",
    )
    assert [key for key in still if not any(part in key for part in cannot)] == []


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_gives_the_same_gradients(name):
    plain, checkpointed = (tiny_model(name, dropout=0.0, input_dropout=0.0).train() for _ in range(2))
    checkpointed.gradient_checkpointing_enable()
    for model in (plain, checkpointed):
        model(**batch()).loss.backward()
    assert checkpointed.is_gradient_checkpointing
    for (key, ours), theirs in zip(plain.named_parameters(), checkpointed.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_reloaded_model_predicts_the_same(name, tmp_path):
    model = tiny_model(name).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is CLASSES[name][1] and AutoConfig.from_pretrained(tmp_path).model_type == name
    assert not list(tmp_path.glob("*.bin"))
    torch.testing.assert_close(loaded(**batch()).pred_spans, model(**batch()).pred_spans, atol=0, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_missing_weights_are_initialized(name, tmp_path):
    """`from_pretrained` builds on the meta device: a parameter without initialization would hold random memory."""
    model = tiny_model(name)
    model.model.save_pretrained(tmp_path)
    loaded = CLASSES[name][1].from_pretrained(tmp_path)
    bound = model.config.hidden_size**-0.5
    assert loaded.class_head.weight.abs().max() <= bound and loaded.class_head.weight.abs().max() > 0
    for key, value in model.model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[key], value, msg=key)


def test_initialization_matches_the_public_code():
    model = tiny_model("qd_detr", hidden_size=64, intermediate_size=128)
    attention = model.model.encoder[0].attention
    # One 3H x H matrix, Xavier-uniform: its bound is sqrt(6 / 4H), and biases are zero.
    bound = (6 / (4 * 64)) ** 0.5
    assert 0.9 * bound < attention.q_proj.weight.abs().max() <= bound and not attention.q_proj.bias.any()
    out_bound = (6 / (2 * 64)) ** 0.5
    assert 0.9 * out_bound < attention.o_proj.weight.abs().max() <= out_bound and not attention.o_proj.bias.any()
    assert model.model.encoder[0].feed_forward.activation.weight.item() == 0.25
    assert not model.model.decoder.refinement_head.layers[-1].bias.any()
    assert model.model.decoder.refinement_head.layers[-1].weight.any()
    assert 0.5 < model.model.global_token.std() < 1.5 and 0.5 < model.model.anchor_logits.std() < 1.6


@pytest.mark.parametrize("name", NAMES)
def test_attentions_and_hidden_states_have_expected_shapes(name):
    model = tiny_model(name, attn_implementation="eager").eval()
    output = model(**batch(), output_attentions=True, output_hidden_states=True)
    layers = 4 if name == "qd_detr" else 2
    assert len(output.encoder_attentions) == layers and len(output.decoder_hidden_states) == 2
    weights = output.cross_attentions[0]
    assert weights.shape[:3] == (3, 2, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 4))
    with pytest.raises(ValueError, match="eager"):
        tiny_model(name)(**batch(), output_attentions=True)


def test_batch_is_rolled_without_negatives():
    model = tiny_model("qd_detr").eval()
    rolled = batch(negatives=0)
    explicit = batch(negatives=0)
    explicit["negative_text_features"] = rolled["text_features"].roll(-1, 0).unsqueeze(1)
    explicit["negative_text_attention_mask"] = rolled["text_attention_mask"].roll(-1, 0).unsqueeze(1)
    torch.testing.assert_close(model(**rolled).loss, model(**explicit).loss)
    alone = take(batch(negatives=0), 0, 9, 6)
    alone["labels"] = {key: value[:1] for key, value in batch()["labels"].items()}
    terms = model(**alone).loss_dict
    assert terms["loss_saliency_negative_pair"].item() == 0 and torch.isfinite(terms["loss_saliency_rank_contrastive"])


def test_absent_irrelevant_query_is_masked():
    model = tiny_model("qd_detr").eval()
    inputs = batch()
    inputs["negative_text_attention_mask"][:, -1] = 0
    terms = model(**inputs).loss_dict
    inputs["negative_text_features"][:, -1] += 5
    changed = model(**inputs).loss_dict
    assert terms["loss_saliency_negative_pair"].item() == 0
    for key in terms:
        torch.testing.assert_close(terms[key], changed[key], msg=key)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layers", [1, 3])
def test_other_depths_and_several_windows_train(name, layers):
    model = tiny_model(name, encoder_layers=layers, decoder_layers=layers, num_input_projections=3, use_tef=False)
    inputs = batch()
    inputs["labels"]["spans"] = torch.rand(3, 6, 2) * 0.3 + 0.2
    # Rows with more windows than candidates, with two windows, and without any.
    inputs["labels"]["span_mask"] = torch.arange(6) < torch.tensor([[6], [2], [0]])
    output = model(**inputs)
    assert len(output.auxiliary_outputs) == layers - 1
    assert torch.isfinite(output.loss) and ("loss_span_0" in output.loss_dict) == (layers > 1)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.span_head.parameters())


def test_contrastive_alignment_is_optional_and_trains_its_heads():
    model = tiny_model("moment_detr", contrastive_loss_weight=0.02)
    output = model(**batch())
    assert {"loss_contrastive", "loss_contrastive_0"} <= set(output.loss_dict)
    output.loss.backward()
    assert model.contrastive_query_head.weight.grad.any() and model.contrastive_text_head.weight.grad.any()
    assert not hasattr(tiny_model("moment_detr"), "contrastive_query_head")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_float32(dtype):
    model = tiny_model("qd_detr").to(dtype).eval()
    inputs = batch()
    for key in ("video_features", "text_features", "negative_text_features"):
        inputs[key] = inputs[key].to(dtype)
    output = model(**inputs)
    assert output.logits.dtype == dtype and output.loss.dtype == torch.float32 and torch.isfinite(output.loss)


def test_wrong_widths_and_settings_are_rejected():
    model = tiny_model("qd_detr")
    inputs = batch(with_labels=False)
    with pytest.raises(ValueError, match=r"video_features has 14 channels, but config\.video_dim is 12"):
        model(**inputs | {"video_features": torch.zeros(3, 9, 14)})
    with pytest.raises(ValueError, match="negative_text_features has 9"):
        model(**inputs | {"negative_text_features": torch.zeros(3, 2, 5, 9)})
    with pytest.raises(StrictDataclassError, match="hidden_size"):
        QDDetrConfig(hidden_size=30, num_attention_heads=8)
    with pytest.raises(StrictDataclassError, match="clip_length"):
        QDDetrConfig(clip_length=0)
    with pytest.raises(StrictDataclassError, match="video_feature_dims"):
        QDDetrConfig(video_dim=10, video_feature_dims=[4, 4])
    assert QDDetrConfig(clip_length=1, dropout=0, span_loss_weight=2.5).clip_length == 1


def test_nan_predictions_give_a_nan_loss_for_any_number_of_windows():
    inputs = batch()
    inputs["labels"]["spans"] = inputs["labels"]["spans"].repeat(1, 3, 1)
    inputs["labels"]["span_mask"] = torch.ones(3, 3, dtype=torch.bool)
    model = tiny_model("qd_detr")
    with torch.no_grad():
        model.span_head.layers[-1].bias.fill_(float("nan"))
    assert model(**inputs).loss.isnan()


@pytest.mark.parametrize("name", CLASSES)
def test_half_precision_model_accepts_float32_features(name):
    outputs = tiny_model(name).bfloat16().eval()(**batch(with_labels=False))
    assert outputs.pred_spans.dtype == torch.bfloat16 and outputs.saliency_scores.isfinite().any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_coupled_mask_stays_finite_with_an_absent_negative(attention):
    model = tiny_model("qd_detr", batch_coupled_text_mask=True, attn_implementation=attention)
    inputs = batch()
    inputs["negative_text_attention_mask"][1, 0] = 0
    output = model(**inputs)
    output.loss.backward()
    assert output.negative_saliency_scores.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
