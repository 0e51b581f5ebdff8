"""Model export: torch.export, ONNX and int8 quantization."""

import warnings

import pytest
import torch
from torch import nn

from .helpers import CLASSES, batch, tiny_model

INPUTS = ("video_features", "video_attention_mask", "text_features", "text_attention_mask")
OUTPUTS = ("logits", "pred_spans", "saliency_scores")


class Inference(nn.Module):
    """A deployed model: tensors in, tensors out."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, *inputs):
        output = self.model(**dict(zip(INPUTS, inputs)))
        return tuple(output[name] for name in OUTPUTS)


def inputs_of(lengths, text_lengths, seed=0) -> tuple[torch.Tensor, ...]:
    made = batch(lengths, text_lengths, negatives=0, seed=seed, with_labels=False)
    return tuple(made[name] for name in INPUTS)


def dynamic_shapes():
    size, clips, words = (torch.export.Dim(name) for name in ("batch", "clips", "words"))
    return ({0: size, 1: clips}, {0: size, 1: clips}, {0: size, 1: words}, {0: size, 1: words})


def exported(model) -> torch.export.ExportedProgram:
    return torch.export.export(
        Inference(model), inputs_of((9, 5, 7), (6, 3, 4)), dynamic_shapes=(dynamic_shapes(),), strict=False
    )


@pytest.fixture(scope="module", params=CLASSES)
def model(request):
    return tiny_model(request.param).eval()


def test_torch_export_has_no_private_operators(model):
    program = exported(model)
    operators = [node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert len(operators) > 50
    assert {operator.namespace for operator in operators} == {"aten"}
    # Torch adds this check to every dtype conversion.
    private = {str(operator) for operator in operators if operator._opname.startswith("_")}
    assert private <= {"aten._assert_tensor_metadata.default"}
    others = inputs_of((4, 11), (2, 7), seed=1)
    for got, want in zip(program.module()(*others), Inference(model)(*others)):
        torch.testing.assert_close(got, want)


# The exporter that does not trace takes long: once is enough.
@pytest.mark.parametrize(
    ("name", "opset", "is_traced"),
    [("qd_detr", 17, True), ("moment_detr", 17, True), pytest.param("qd_detr", 20, False, marks=pytest.mark.slow)],
)
def test_onnx_equals_torch_for_any_batch_clips_and_words(name, opset, is_traced, tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, path = tiny_model(name).eval(), tmp_path / "model.onnx"
    if is_traced:
        axes = {name: {0: "batch", 1: "clips" if "video" in name else "words"} for name in INPUTS}
        lengths = {"dynamo": False, "dynamic_axes": axes}
    else:
        lengths = {"dynamo": True, "dynamic_shapes": (dynamic_shapes(),)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Inference(model),
            inputs_of((9, 5, 7), (6, 3, 4)),
            path,
            input_names=INPUTS,
            output_names=OUTPUTS,
            opset_version=opset,
            **lengths,
        )
    assert [used.version for used in onnx.load(path).opset_import if not used.domain] == [opset]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for inputs in (
        inputs_of((9, 5, 7), (6, 3, 4)),
        inputs_of((4, 11), (2, 7), seed=1),
        inputs_of((75,), (1,), seed=2),
    ):
        got = session.run(OUTPUTS, {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs)})
        with torch.no_grad():
            want = Inference(model)(*inputs)
        for output, ours, reference in zip(OUTPUTS, got, want):
            torch.testing.assert_close(torch.from_numpy(ours), reference, atol=1e-4, rtol=1e-4, msg=output)


def test_int8_quantization_covers_all_linear_layers(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    count = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert count > 20
    assert not [name for name, module in quantized.named_modules() if isinstance(module, nn.Linear)]
    inputs = inputs_of((9, 5, 7), (6, 3, 4))
    for got, want in zip(Inference(quantized)(*inputs), Inference(model)(*inputs)):
        assert got.isfinite().all()
        assert (got - want).abs().mean() < 0.1 * want.abs().mean() + 0.01


def test_layers_are_plain_torch_modules(model):
    """Export tools match exact classes, so layers must not be subclasses."""
    for name, module in model.named_modules():
        for plain in (nn.Linear, nn.Dropout, nn.PReLU, nn.LayerNorm):
            assert not isinstance(module, plain) or type(module) is plain, name
