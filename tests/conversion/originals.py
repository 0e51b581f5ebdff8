"""Small random checkpoints with the parameter names of the original code."""

import argparse

import torch

OPTIONS = argparse.Namespace(
    nheads=2, dropout=0.2, input_dropout=0.4, max_q_l=20, max_v_l=75, ctx_mode="video_tef", clip_length=2, span_loss_coef=10,
    eos_coef=0.1, lw_saliency=4.0, no_norm_vfeat=False, no_norm_tfeat=False, a_feat_dim=0, results_dir="somewhere",
)  # fmt: skip


def save(path, state=None, options=OPTIONS):
    """Write a checkpoint as the public training code does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state or original_names(), "opt": options, "epoch": 7, "optimizer": {"state": {}}}, path)
    return path


class _Shapes(dict):
    """Map parameter names of torch layers to shapes."""

    def linear(self, name, rows, columns):
        self[f"{name}.weight"], self[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(self, name, width):
        self[f"{name}.weight"], self[f"{name}.bias"] = (width,), (width,)

    def attention(self, name, size):
        self[f"{name}.in_proj_weight"], self[f"{name}.in_proj_bias"] = (3 * size, size), (3 * size,)
        self.linear(f"{name}.out_proj", size, size)

    def layer(self, name, size, norms, attentions=()):
        for attention in attentions:
            self.attention(f"{name}.{attention}", size)
        self.linear(f"{name}.linear1", 2 * size, size)
        self.linear(f"{name}.linear2", size, 2 * size)
        for index in range(norms):
            self.norm(f"{name}.norm{index + 1}", size)

    def mlp(self, name, *widths):
        for index, (columns, rows) in enumerate(zip(widths, widths[1:])):
            self.linear(f"{name}.layers.{index}", rows, columns)

    def inputs_and_heads(self, size, text, video, anchor):
        self.norm("transformer.decoder.norm", size)
        self.mlp("span_embed", size, size, size, 2)
        self.linear("class_embed", 2, size)
        self["query_embed.weight"] = (5, anchor)
        self["txt_position_embed.position_embeddings.weight"] = (4, size)
        for kind, width in (("txt", text), ("vid", video + 2)):
            self.norm(f"input_{kind}_proj.0.LayerNorm", width)
            self.linear(f"input_{kind}_proj.0.net.1", size, width)

    def tensors(self):
        generator = torch.Generator().manual_seed(0)
        return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in self.items()}


def original_names(hidden=8, text=6, video=10) -> dict[str, torch.Tensor]:
    """Return the parameters of a Moment-DETR with one encoder and one decoder layer."""
    shapes = _Shapes()
    shapes.layer("transformer.encoder.layers.0", hidden, 2, ["self_attn"])
    shapes.layer("transformer.decoder.layers.0", hidden, 3, ["self_attn", "multihead_attn"])
    shapes.inputs_and_heads(hidden, text, video, anchor=hidden)
    shapes.linear("saliency_proj", 1, hidden)
    return shapes.tensors()


def qd_detr_names(hidden=8, text=6, video=10, layers=2) -> dict[str, torch.Tensor]:
    """Return the parameters of a QD-DETR, the network that SHINE uses."""
    shapes = _Shapes({"global_rep_token": (hidden,), "global_rep_pos": (hidden,)})
    for index in range(layers):
        for stack in ("t2v_encoder", "encoder"):
            shapes.layer(f"transformer.{stack}.layers.{index}", hidden, 2, ["self_attn"])
            shapes[f"transformer.{stack}.layers.{index}.activation.weight"] = (1,)
        decoder = f"transformer.decoder.layers.{index}"
        shapes.layer(decoder, hidden, 3)
        shapes[f"{decoder}.activation.weight"] = (1,)
        for part in (
            "sa_qcontent",
            "sa_qpos",
            "sa_kcontent",
            "sa_kpos",
            "sa_v",
            "ca_qcontent",
            "ca_kcontent",
            "ca_kpos",
            "ca_v",
            "ca_qpos_sine",
        ):
            shapes.linear(f"{decoder}.{part}_proj", hidden, hidden)
        if index == 0:
            shapes.linear(f"{decoder}.ca_qpos_proj", hidden, hidden)
        for attention in ("self_attn", "cross_attn"):
            shapes.linear(f"{decoder}.{attention}.out_proj", hidden, hidden)
    for name, widths in (
        ("query_scale", [hidden] * 3),
        ("ref_point_head", [hidden] * 3),
        ("bbox_embed", [hidden] * 3 + [2]),
    ):
        shapes.mlp(f"transformer.decoder.{name}", *widths)
    shapes.mlp("transformer.decoder.ref_anchor_head", hidden, hidden, 1)
    shapes.inputs_and_heads(hidden, text, video, anchor=2)
    for name in ("saliency_proj1", "saliency_proj2"):
        shapes.linear(name, hidden, hidden)
    return shapes.tensors()
