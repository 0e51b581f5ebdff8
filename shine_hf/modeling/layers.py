"""Attention, encoder and decoder layers, projections and position embeddings of all models.

Shapes: B videos (or video-query pairs), T clips, L tokens, Q moment candidates, H hidden channels.
"""

import math

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_moment_retrieval import MomentRetrievalConfig
from .spans import inverse_sigmoid


def xavier_linear(in_features: int, out_features: int, gain: float = 1.0, zero_bias: bool = False) -> nn.Linear:
    """Return a linear layer with Xavier-uniform initialization, as used inside the transformers of the DETR family.

    `gain` scales the weight, and `zero_bias` sets the bias to zero. The layer only stores these settings; the models' `_init_weights` applies
    them. It is not a subclass of `nn.Linear`, because tools such as `quantize_dynamic` skip subclasses.
    """
    linear = nn.Linear(in_features, out_features)
    linear.xavier_gain, linear.zero_bias = gain, zero_bias
    return linear


class MLP(nn.Module):
    """Linear layers with ReLU between them. `xavier` selects the initialization of the transformer (see [`xavier_linear`])."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int, num_layers: int, xavier: bool = False):
        super().__init__()
        linear = xavier_linear if xavier else nn.Linear
        sizes = [input_size] + [hidden_size] * (num_layers - 1) + [output_size]
        self.layers = nn.ModuleList(linear(a, b) for a, b in zip(sizes[:-1], sizes[1:]))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states).relu()
        return self.layers[-1](hidden_states)


class InputProjection(nn.Module):
    """Project features to hidden states: blocks of layer norm, dropout and linear layer, with ReLU between the blocks."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float):
        super().__init__()
        sizes = [input_size] + [hidden_size] * num_layers
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes[:-1])
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:]))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = features.to(self.norms[0].weight.dtype)
        for index, (norm, linear) in enumerate(zip(self.norms, self.linears)):
            features = linear(self.dropout(norm(features.relu() if index else features)))
        return features


# ---- positions and masks -------------------------------------------------------------------------------------------


def append_endpoint_features(video_features: torch.Tensor, video_mask: torch.Tensor) -> torch.Tensor:
    """Append start/T and end/T to each clip, where T is the number of clips of its video: `(B, T, D)`, `(B, T)` -> `(B, T, D + 2)`."""
    num_clips = video_mask.sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)
    start = torch.arange(video_mask.shape[1], device=video_mask.device, dtype=torch.float32) / num_clips
    endpoints = torch.stack([start, start + 1 / num_clips], dim=-1) * video_mask.unsqueeze(-1)
    return torch.cat([video_features, endpoints.to(video_features.dtype)], dim=-1)


def sinusoidal_embedding(angle: torch.Tensor, size: int) -> torch.Tensor:
    """Embed angles, `(...)` -> `(..., size)`: sine in even and cosine in odd channels, wavelengths from 2 pi to 20000 pi."""
    channel = torch.arange(size, device=angle.device)
    frequency = 10000 ** (2 * (channel // 2) / size)
    angle = angle.unsqueeze(-1).to(torch.float32) / frequency
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


def clip_position_embedding(video_mask: torch.Tensor, size: int) -> torch.Tensor:
    """Embed the position of each clip, as a fraction of the length of its video: `(B, T)` mask -> `(B, T, size)`."""
    position = video_mask.to(torch.float32).cumsum(dim=1)
    return sinusoidal_embedding(2 * math.pi * position / (position[:, -1:] + 1e-6), size)


def anchor_position_embedding(anchors: torch.Tensor, size: int) -> torch.Tensor:
    """Embed anchors, `(..., 2)` center and width -> `(..., size)`: half of the channels for the center, half for the width."""
    return sinusoidal_embedding(2 * math.pi * anchors, size // 2).flatten(-2)


def attention_bias(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a boolean mask (True: may be attended to) to an additive mask of the same shape.

    It contains the lowest finite number instead of minus infinity, so that a row without any key gives arbitrary numbers instead of NaN.
    """
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def key_padding_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Hide padded keys from every head and query: `(B, K)` 0/1 mask -> `(B, 1, 1, K)` additive mask."""
    return attention_bias(mask.bool()[:, None, None, :], dtype)


# ---- attention -----------------------------------------------------------------------------------------------------


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention without a fused kernel, and also return the weights `(B, heads, queries, keys)`."""
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1)
    output = module.dropout(weights) @ value
    return output.transpose(1, 2).contiguous(), weights


class Attention(nn.Module):
    """Multi-head attention over projected queries, keys and values, followed by the output projection.

    Subclasses project their inputs and split the heads. `attend` calls the attention interface of transformers.
    """

    is_causal = False

    def __init__(self, config: MomentRetrievalConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.o_proj = xavier_linear(config.hidden_size, config.hidden_size, zero_bias=True)
        self.dropout = nn.Dropout(config.dropout)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Split the channels into heads: `(B, S, H)` -> `(B, heads, S, H / heads)`."""
        # Not `unflatten`: the tracing ONNX exporter would fix the lengths of its example.
        return states.reshape(states.shape[0], states.shape[1], self.num_heads, -1).transpose(1, 2)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend, and return states `(B, S, H)` and the attention weights, if the implementation gives them."""
        dropout = self.dropout.p if self.training else 0.0
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        if dropout and query.device.type == "cpu":
            # PyTorch has no fused CPU kernel with dropout, and its fallback is several times slower than eager attention.
            interface = eager_attention_forward
        output, weights = interface(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=query.shape[-1] ** -0.5,
            dropout=dropout,
        )
        return self.o_proj(output.flatten(-2)), weights


class MultiHeadAttention(Attention):
    """Standard attention, with one projection each for queries, keys and values."""

    def __init__(self, config: MomentRetrievalConfig):
        super().__init__(config)
        # The gain reproduces PyTorch's attention: it initializes one matrix for all three, whose larger fan-out gives a smaller bound.
        self.q_proj, self.k_proj, self.v_proj = (
            xavier_linear(config.hidden_size, config.hidden_size, gain=2**-0.5, zero_bias=True) for _ in range(3)
        )

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = (
            self.split_heads(projection(states))
            for projection, states in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        return self.attend(query, key, value, attention_mask)


class ConditionalSelfAttention(Attention):
    """Self-attention of the QD-DETR decoder: content and position are projected separately and added."""

    def __init__(self, config: MomentRetrievalConfig):
        super().__init__(config)
        size = config.hidden_size
        self.q_content_proj, self.q_position_proj = xavier_linear(size, size), xavier_linear(size, size)
        self.k_content_proj, self.k_position_proj = xavier_linear(size, size), xavier_linear(size, size)
        self.v_proj = xavier_linear(size, size)

    def forward(self, states: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.q_content_proj(states) + self.q_position_proj(position)
        key = self.k_content_proj(states) + self.k_position_proj(position)
        value = self.v_proj(states)
        return self.attend(self.split_heads(query), self.split_heads(key), self.split_heads(value), None)


class ConditionalCrossAttention(Attention):
    """Cross-attention of the QD-DETR decoder: each head gets concatenated content and position channels.

    Only the first layer also adds the positions to the content, since its content is zero.
    """

    def __init__(self, config: MomentRetrievalConfig, is_first_layer: bool):
        super().__init__(config)
        size = config.hidden_size
        self.q_content_proj, self.k_content_proj = xavier_linear(size, size), xavier_linear(size, size)
        self.q_anchor_proj, self.k_position_proj = xavier_linear(size, size), xavier_linear(size, size)
        self.v_proj = xavier_linear(size, size)
        self.q_position_proj = xavier_linear(size, size) if is_first_layer else None

    def forward(
        self,
        states: torch.Tensor,
        position: torch.Tensor,
        anchor_embedding: torch.Tensor,
        memory: torch.Tensor,
        memory_position: torch.Tensor,
        memory_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key = self.q_content_proj(states), self.k_content_proj(memory)
        key_position = self.k_position_proj(memory_position)
        if self.q_position_proj is not None:
            query, key = query + self.q_position_proj(position), key + key_position
        anchor = self.q_anchor_proj(anchor_embedding)
        query = torch.cat([self.split_heads(query), self.split_heads(anchor)], dim=-1)
        key = torch.cat([self.split_heads(key), self.split_heads(key_position)], dim=-1)
        return self.attend(query, key, self.split_heads(self.v_proj(memory)), memory_mask)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them: ReLU in Moment-DETR, PReLU with one learned slope in QD-DETR."""

    def __init__(self, config: MomentRetrievalConfig, activation: nn.Module):
        super().__init__()
        self.linear_in = xavier_linear(config.hidden_size, config.intermediate_size)
        self.linear_out = xavier_linear(config.intermediate_size, config.hidden_size)
        self.activation = activation
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.linear_out(self.dropout(self.activation(self.linear_in(states))))


# ---- encoder layers --------------------------------------------------------------------------------------------------


class EncoderLayer(GradientCheckpointingLayer):
    """Post-norm self-attention layer. Positions are added to queries and keys, not to values."""

    def __init__(self, config: MomentRetrievalConfig, activation: nn.Module):
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config, activation)
        self.attention_norm, self.output_norm = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, states: torch.Tensor, position: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        located = states + position
        attended, weights = self.attention(located, located, states, attention_mask)
        states = self.attention_norm(states + self.dropout(attended))
        return self.output_norm(states + self.dropout(self.feed_forward(states))), weights


class TextToVideoLayer(GradientCheckpointingLayer):
    """QD-DETR's cross-attention layer, in which the clips attend to the tokens.

    The norm after the attention only applies to the feed-forward branch. The residual connection uses the unnormalized sum.
    """

    def __init__(self, config: MomentRetrievalConfig, activation: nn.Module):
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config, activation)
        self.attention_norm, self.output_norm = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, clips: torch.Tensor, position: torch.Tensor, tokens: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, weights = self.attention(clips + position, tokens, tokens, attention_mask)
        clips = clips + self.dropout(attended)
        return self.output_norm(clips + self.dropout(self.feed_forward(self.attention_norm(clips)))), weights


# ---- decoders --------------------------------------------------------------------------------------------------------


class DecoderLayer(GradientCheckpointingLayer):
    """Decoder layer of the DETR family: self-attention, cross-attention, feed-forward, each with residual and norm.

    `conditional` selects QD-DETR's attention, which is conditioned on anchors, instead of DETR's.
    """

    def __init__(
        self,
        config: MomentRetrievalConfig,
        activation: nn.Module,
        conditional: bool = False,
        is_first_layer: bool = False,
    ):
        super().__init__()
        self.conditional = conditional
        self.self_attention = ConditionalSelfAttention(config) if conditional else MultiHeadAttention(config)
        self.cross_attention = (
            ConditionalCrossAttention(config, is_first_layer) if conditional else MultiHeadAttention(config)
        )
        self.feed_forward = FeedForward(config, activation)
        self.self_attention_norm = nn.LayerNorm(config.hidden_size)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: torch.Tensor,
        position: torch.Tensor,
        memory: torch.Tensor,
        memory_position: torch.Tensor,
        memory_mask: torch.Tensor,
        anchor_embedding: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if self.conditional:
            attended, self_weights = self.self_attention(states, position)
        else:
            located = states + position
            attended, self_weights = self.self_attention(located, located, states)
        states = self.self_attention_norm(states + self.dropout(attended))
        if self.conditional:
            attended, cross_weights = self.cross_attention(
                states, position, anchor_embedding, memory, memory_position, memory_mask
            )
        else:
            attended, cross_weights = self.cross_attention(
                states + position, memory + memory_position, memory, memory_mask
            )
        states = self.cross_attention_norm(states + self.dropout(attended))
        states = self.output_norm(states + self.dropout(self.feed_forward(states)))
        return states, self_weights, cross_weights


class QueryDecoder(nn.Module):
    """Decoder of Moment-DETR. Candidates are learned vectors that serve as positions; their content starts at zero.

    `forward` returns the normalized states after each layer `(layers, B, Q, H)`, and the self- and cross-attention weights.
    """

    def __init__(self, config: MomentRetrievalConfig):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config, nn.ReLU()) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self, queries: torch.Tensor, memory: torch.Tensor, memory_position: torch.Tensor, memory_mask: torch.Tensor
    ) -> tuple[torch.Tensor, tuple]:
        position = queries.expand(memory.shape[0], -1, -1)
        states, history, weights = torch.zeros_like(position), [], []
        for layer in self.layers:
            states, *layer_weights = layer(states, position, memory, memory_position, memory_mask)
            history.append(self.norm(states))
            weights.append(layer_weights)
        return torch.stack(history), tuple(zip(*weights))


class AnchorDecoder(nn.Module):
    """Decoder of QD-DETR. Candidates are anchors (center, width) that each layer refines, as in DAB-DETR.

    `forward` returns the normalized states `(layers, B, Q, H)`, the anchors before each layer `(layers, B, Q, 2)`, and the self- and
    cross-attention weights.
    """

    def __init__(self, config: MomentRetrievalConfig):
        super().__init__()
        size = config.hidden_size
        self.layers = nn.ModuleList(
            DecoderLayer(config, nn.PReLU(), conditional=True, is_first_layer=index == 0)
            for index in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(size)
        self.position_head = MLP(size, size, size, 2, xavier=True)
        self.width_scale_head = MLP(size, size, 1, 2, xavier=True)
        # The first layer is not scaled by content, and the refinement after the last layer is unused. So a decoder with one layer would
        # never train these two heads.
        several = config.decoder_layers > 1
        self.content_scale_head = MLP(size, size, size, 2, xavier=True) if several else None
        self.refinement_head = MLP(size, size, 2, 3, xavier=True) if several else None
        if several:
            self.refinement_head.layers[-1].zero_bias = True

    def forward(
        self,
        anchor_logits: torch.Tensor,
        memory: torch.Tensor,
        memory_position: torch.Tensor,
        memory_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple]:
        size = memory.shape[-1]
        anchors = anchor_logits.sigmoid().expand(memory.shape[0], -1, -1)
        states = memory.new_zeros(*anchors.shape[:-1], size)
        history, references, weights = [], [anchors], []
        for index, layer in enumerate(self.layers):
            embedding = anchor_position_embedding(anchors, size).to(memory.dtype)
            position = self.position_head(embedding)
            scale = self.width_scale_head(states).sigmoid() / anchors[..., 1:]
            if index:
                scale = scale * self.content_scale_head(states)
            states, *layer_weights = layer(
                states, position, memory, memory_position, memory_mask, (embedding * scale).to(memory.dtype)
            )
            if index + 1 < len(self.layers):
                # Stop the gradient to the next layer. The refinement is trained through the span head.
                refined = (self.refinement_head(states) + inverse_sigmoid(anchors)).sigmoid()
                references.append(refined)
                anchors = refined.detach()
            history.append(self.norm(states))
            weights.append(layer_weights)
        return torch.stack(history), torch.stack(references), tuple(zip(*weights))
