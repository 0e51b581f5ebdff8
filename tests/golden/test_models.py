"""Complete models against numbers recorded from the public implementations (../shared/golden/README.md)."""

import pytest
import torch

from shine_hf.conversion.checkpoints import convert_state_dict

from .reference import Golden, targets, total_loss

NAMES = [f"{model}_{case}" for model in ("qd_detr", "shine", "moment_detr") for case in ("ragged", "edges")]
CASES = [
    (name, variant, mode)
    for name in NAMES
    for variant in (("fixed",) if name.startswith("moment") else ("fixed", "asis"))
    for mode in ("eval", "train")
]


@pytest.fixture(scope="session")
def folder(shared):
    return shared / "golden"


def run(golden, variant, mode, attention="sdpa"):
    model = golden.model(variant, attention).train(mode == "train")
    inputs = golden.inputs(golden.doc["inputs"])
    labels = targets(golden.tensors, with_margin_pairs=golden.doc["model"] != "shine")
    return model, *total_loss(golden, model, inputs, labels, training=mode == "train")


@pytest.mark.parametrize(("name", "variant", "mode"), CASES)
def test_outputs_losses_and_gradients_match_the_reference(folder, name, variant, mode):
    golden = Golden.load(folder, name)
    model, output, total, terms = run(golden, variant, mode)
    want, prefix = golden.doc["variants"][variant][mode], f"{variant}.{mode}."

    ours = {
        "pred_logits": output.logits,
        "pred_spans": output.pred_spans,
        "saliency_scores": output.saliency_scores,
        "aux.0.pred_logits": output.auxiliary_outputs[0]["logits"],
        "aux.0.pred_spans": output.auxiliary_outputs[0]["pred_spans"],
    }
    if output.negative_saliency_scores is not None:
        ours["saliency_scores_neg"] = output.negative_saliency_scores[:, -1]
        if output.negative_saliency_scores.shape[1] > 1 and mode == "train":
            ours["saliency_scores_hn"] = output.negative_saliency_scores[:, :-1].transpose(0, 1).flatten(0, 1)
    recorded = {key.removeprefix(prefix) for key in golden.tensors if key.startswith(prefix)}
    assert recorded == set(ours)
    for key, value in ours.items():
        torch.testing.assert_close(value, golden.tensors[prefix + key], atol=2e-5, rtol=0, msg=key)

    assert total.item() == pytest.approx(want["total"], rel=1e-5)
    for key, value in want["losses"].items():
        if key != "class_error" and not key.startswith("class_error_") and key != "loss_saliency":
            assert terms[key].item() == pytest.approx(value, rel=1e-5), key
    saliency = want["losses"]["loss_saliency"]
    if golden.doc["model"] == "shine":
        assert saliency == pytest.approx(
            sum(terms[k].item() for k in ("loss_saliency", "loss_coarse_intra", "loss_coarse_inter"))
            + (terms["loss_fine"].item() if mode == "train" else 0.0),
            rel=1e-5,
        )
    else:
        assert terms["loss_saliency"].item() == pytest.approx(saliency, rel=1e-5)

    if mode == "train":
        total.backward()
        check_gradients(golden, model, want)


def check_gradients(golden, model, want):
    """Compare norms per original parameter. The norm of a joint q/k/v matrix is the root of the sum of squares of its parts."""
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(grad is not None for grad in ours.values()), "every parameter of ours is trained"
    total = want["grad_norm_all"]
    for name, shape in golden.parameters:
        if name in want["parameters_without_gradient"]:
            continue
        parts = convert_state_dict({name: torch.zeros(shape)}, golden.doc["model"])
        norm = torch.stack([ours[part].norm() for part in parts]).norm().item()
        if want["grad_norms"][name] > 1e-5 * total:
            assert norm == pytest.approx(want["grad_norms"][name], rel=1e-3), name


@pytest.mark.parametrize("name", ["shine_ragged", "moment_detr_ragged"])
def test_eager_attention_matches_the_reference(folder, name):
    golden = Golden.load(folder, name)
    _, output, _, _ = run(golden, "fixed", "eval", attention="eager")
    for key, value in (("pred_spans", output.pred_spans), ("saliency_scores", output.saliency_scores)):
        torch.testing.assert_close(value, golden.tensors[f"fixed.eval.{key}"], atol=2e-5, rtol=0)


def test_comparison_with_the_first_level_matches_the_reference(folder):
    golden = Golden.load(folder, "shine_ragged")
    model = golden.model("fixed")
    inputs, labels = golden.inputs(golden.doc["inputs"]), targets(golden.tensors, with_margin_pairs=False)
    _, total, _ = total_loss(golden, model, inputs, labels, compare_to="first")
    assert total.item() == pytest.approx(golden.doc["variants"]["fixed"]["train"]["total_with_ranking_abd"], rel=1e-5)


@pytest.mark.parametrize("name", ["qd_detr_ragged", "moment_detr_ragged"])
def test_intermediate_activations_match_the_reference(folder, name):
    golden = Golden.load(folder, name)
    recorded = Golden.load(folder, f"{name}_intermediates").tensors
    model = golden.model("fixed").eval()
    inputs = golden.inputs(golden.doc["inputs"])
    output = model.model(**inputs, output_hidden_states=True)
    valid = inputs["video_attention_mask"].bool()
    torch.testing.assert_close(
        output.video_states[valid], _clips_of(recorded["after_encoder"], name, valid), atol=2e-5, rtol=0
    )
    torch.testing.assert_close(output.intermediate_hidden_states, recorded["decoder_states"], atol=5e-5, rtol=0)
    if "decoder_references" in recorded:
        torch.testing.assert_close(output.reference_anchors, recorded["decoder_references"], atol=2e-5, rtol=0)


def _clips_of(encoded, name, valid):
    return (encoded[:, 1:] if name.startswith("qd") else encoded[:, : valid.shape[1]])[valid]


@pytest.mark.parametrize("name", ["trajectory_qd_detr", "trajectory_shine_total", "trajectory_moment_detr"])
def test_first_six_training_steps_match_the_reference(folder, name):
    golden = Golden.load(folder, name)
    for variant, want in golden.doc["variants"].items():
        model = golden.model(variant).train()
        settings = golden.doc["optimizer"]
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"], betas=settings["betas"]
        )
        for step in range(6):
            index = step % len(golden.doc["batches"])
            inputs = golden.inputs(golden.doc["batches"][index]["inputs"])
            labels = targets(golden.tensors, f"{index}.", with_margin_pairs=golden.doc["model"] != "shine")
            _, total, _ = total_loss(golden, model, inputs, labels)
            tolerance = max(1e-4, 10 * want["relative_spread"][step])
            assert total.item() == pytest.approx(want["steps"][step]["total"], rel=tolerance), (variant, step)
            optimizer.zero_grad()
            total.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_grad_norm"])
            assert norm.item() == pytest.approx(want["steps"][step]["grad_norm"], rel=max(1e-3, tolerance))
            optimizer.step()
