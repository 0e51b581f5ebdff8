"""Load the golden files of ../shared/golden, and compare our outputs and gradients with them."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from shine_hf.conversion.checkpoints import convert_state_dict
from shine_hf.losses import ShineLoss
from shine_hf.modeling import (
    MomentDetrConfig,
    MomentDetrForMomentRetrieval,
    QDDetrConfig,
    QDDetrForMomentRetrieval,
)

MODELS = {
    "qd_detr": (QDDetrConfig, QDDetrForMomentRetrieval),
    "shine": (QDDetrConfig, QDDetrForMomentRetrieval),
    "moment_detr": (MomentDetrConfig, MomentDetrForMomentRetrieval),
}


@dataclass
class Golden:
    """One golden file: its description, its tensors, and the script that draws parameters and inputs."""

    doc: dict
    tensors: dict[str, torch.Tensor]
    make_weights: object
    folder: Path

    @classmethod
    def load(cls, folder: Path, name: str) -> "Golden":
        spec = importlib.util.spec_from_file_location("make_weights", folder / "make_weights.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        doc = json.loads((folder / f"{name}.json").read_text())
        path = folder / f"{name}.safetensors"
        return cls(doc, load_file(path) if path.exists() else {}, module, folder)

    @property
    def parameters(self) -> list:
        name = {"moment_detr": "params_moment_detr.json"}.get(self.doc["model"], "params_qd_detr_and_shine.json")
        return json.loads((self.folder / name).read_text())

    def state(self) -> dict[str, torch.Tensor]:
        """Return the reference's state dict with its original names."""
        arrays = self.make_weights.make_state(self.parameters, self.doc["weight_seed"], self.doc.get("head_gain", 1.0))
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def inputs(self, case: dict) -> dict[str, torch.Tensor]:
        """Return the model inputs of one batch: features without endpoint features, negatives with the rolled query last."""
        raw = self.make_weights.make_inputs(case)
        for name, want in self.doc.get("input_checksums", {}).items():
            got = self.make_weights.checksum(raw[name])
            assert torch.allclose(torch.tensor(got), torch.tensor(want), rtol=1e-5, atol=1e-4), name
        raw = {name: torch.from_numpy(array) for name, array in raw.items()}
        inputs = {
            "video_features": raw["src_vid"][..., :-2],
            "video_attention_mask": raw["src_vid_mask"],
            "text_features": raw["src_txt"],
            "text_attention_mask": raw["src_txt_mask"],
        }
        if self.doc["model"] == "moment_detr":
            return inputs
        negatives = [raw["src_txt"].roll(-1, 0)[None]]
        masks = [raw["src_txt_mask"].roll(-1, 0)[None]]
        if self.doc["model"] == "shine":
            negatives.insert(0, raw["src_hn_txt"])
            masks.insert(0, raw["src_hn_txt_mask"])
        inputs["negative_text_features"] = torch.cat(negatives).transpose(0, 1)
        inputs["negative_text_attention_mask"] = torch.cat(masks).transpose(0, 1)
        return inputs

    def model(self, variant: str, attention: str = "sdpa", **overrides) -> torch.nn.Module:
        """Return our model with the reference's parameters and without dropout, as in the golden files."""
        settings = self.doc["settings"]
        config_class, model_class = MODELS[self.doc["model"]]
        fields = dict(
            video_dim=settings["v_feat_dim"] - 2,
            text_dim=settings["t_feat_dim"],
            dropout=0.0,
            input_dropout=0.0,
            saliency_margin=settings["saliency_margin"],
            attn_implementation=attention,
        )
        if variant == "asis":
            fields["batch_coupled_text_mask"] = True
        model = model_class(config_class(**fields | overrides))
        model.load_state_dict(convert_state_dict(self.state(), self.doc["model"]))
        return model

    def ranking_loss(self, compare_to: str = "previous") -> ShineLoss:
        settings = self.doc["settings"]
        return ShineLoss(
            intra_margin=settings["coarse_margin"][0],
            inter_margin=settings["coarse_margin"][1],
            top_k_divisor=settings["q"],
            fine_margins=tuple(settings["fine_margin"]),
            compare_to=compare_to,
        )


def targets(tensors: dict[str, torch.Tensor], prefix: str = "targets.", with_margin_pairs: bool = True) -> dict:
    """Return the reference's targets as our `labels`."""
    spans = [
        tensors[f"{prefix}spans.{i}"] for i in range(len([n for n in tensors if n.startswith(f"{prefix}spans.")]))
    ]
    width = max(len(s) for s in spans)
    padded = torch.zeros(len(spans), width, 2)
    mask = torch.zeros(len(spans), width, dtype=torch.bool)
    for row, windows in enumerate(spans):
        padded[row, : len(windows)], mask[row, : len(windows)] = windows, True
    labels = {"spans": padded, "span_mask": mask, "saliency": tensors[f"{prefix}saliency_all_labels"].float()}
    if with_margin_pairs:
        labels["positive_clips"] = tensors[f"{prefix}saliency_pos_labels"].long()
        labels["negative_clips"] = tensors[f"{prefix}saliency_neg_labels"].long()
    return labels


def total_loss(golden: Golden, model, inputs, labels, compare_to="previous", training=True):
    """Return output, total loss and all terms: the base loss plus, for SHINE, the ranking losses (the fine one only in training)."""
    output = model(**inputs, labels=labels)
    total, terms = output.loss, dict(output.loss_dict)
    if golden.doc["model"] == "shine":
        ranking = golden.ranking_loss(compare_to)
        negatives = output.negative_saliency_scores
        extra, more = ranking(
            output.saliency_scores,
            negatives if training else negatives[:, -1:],
            labels["saliency"],
            inputs["video_attention_mask"],
        )
        total, terms = total + extra, terms | more
    return output, total, terms
