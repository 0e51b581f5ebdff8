"""QD-DETR: clips attend to the query before the encoder, and moments are anchors that each layer refines (arXiv 2303.13874)."""

import torch
from torch import nn

from .configuration_qd_detr import QDDetrConfig
from .layers import (
    AnchorDecoder,
    EncoderLayer,
    TextToVideoLayer,
    attention_bias,
    clip_position_embedding,
    key_padding_bias,
)
from .modeling_moment_retrieval import (
    EncodedQueries,
    MomentRetrievalModel,
    MomentRetrievalModelOutput,
    MomentRetrievalModelWithHeads,
)
from .spans import inverse_sigmoid


class QDDetrModel(MomentRetrievalModel):
    """Encoder and decoder of QD-DETR; `forward` is documented in [`MomentRetrievalModel`]."""

    config_class = QDDetrConfig

    def __init__(self, config: QDDetrConfig):
        super().__init__(config)
        self.global_token = nn.Parameter(torch.empty(config.hidden_size))
        self.global_position = nn.Parameter(torch.empty(config.hidden_size))
        self.text_to_video = nn.ModuleList(
            TextToVideoLayer(config, nn.PReLU()) for _ in range(config.text_to_video_layers)
        )
        self.encoder = nn.ModuleList(EncoderLayer(config, nn.PReLU()) for _ in range(config.encoder_layers))
        self.anchor_logits = nn.Parameter(torch.empty(config.num_queries, 2))
        self.decoder = AnchorDecoder(config)
        self.post_init()

    def encode(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        groups: list[int],
    ) -> EncodedQueries:
        position = clip_position_embedding(video_mask, self.config.hidden_size).to(video.dtype)
        text_bias = key_padding_bias(text_mask, video.dtype)
        if self.config.batch_coupled_text_mask:
            # The minimum: the sum of two lowest numbers would be minus infinity, which gives NaN for a query without tokens.
            text_bias = text_bias.minimum(self._coupled_bias(video_mask, text_mask, groups, video.dtype))
        hidden_states, attentions = [video], []
        for layer in self.text_to_video:
            video, weights = layer(video, position, text, text_bias)
            hidden_states.append(video)
            attentions.append(weights)

        pairs = video.shape[0]
        states = torch.cat([self.global_token.to(video.dtype).expand(pairs, 1, -1), video], dim=1)
        position = torch.cat([self.global_position.to(video.dtype).expand(pairs, 1, -1), position], dim=1)
        bias = key_padding_bias(nn.functional.pad(video_mask, (1, 0), value=1), video.dtype)
        for layer in self.encoder:
            states, weights = layer(states, position, bias)
            hidden_states.append(states)
            attentions.append(weights)
        return EncodedQueries(states[:, 1:], states[:, 0], None, tuple(hidden_states), tuple(attentions))

    def decode(
        self, encoded: EncodedQueries, video_mask: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, tuple]:
        memory = encoded.video_states
        position = clip_position_embedding(video_mask, self.config.hidden_size).to(memory.dtype)
        return self.decoder(self.anchor_logits, memory, position, key_padding_bias(video_mask, memory.dtype))

    def _coupled_bias(self, video_mask: torch.Tensor, text_mask: torch.Tensor, groups: list[int], dtype):
        """Return the additional mask of the authors' code, `(P, heads, T, L)`.

        It is built for (head, sample) but read as (sample, head). So head h of sample b gets the mask of sample (b * heads + h) mod batch,
        in which clips after the end of that video cannot attend to tokens after the end of that query.
        """
        heads = self.config.num_attention_heads
        allowed = []
        for video_part, text_part in zip(video_mask.bool().split(groups), text_mask.bool().split(groups)):
            own = video_part[:, :, None] | text_part[:, None, :]
            source = torch.arange(len(own) * heads, device=own.device) % len(own)
            allowed.append(own[source].unflatten(0, (-1, heads)))
        return attention_bias(torch.cat(allowed), dtype)


class QDDetrForMomentRetrieval(MomentRetrievalModelWithHeads):
    """QD-DETR with class, span and saliency heads; `forward` is documented in [`MomentRetrievalModelWithHeads`]."""

    config_class = QDDetrConfig

    def __init__(self, config: QDDetrConfig):
        super().__init__(config, QDDetrModel(config))
        self.saliency_clip_head = nn.Linear(config.hidden_size, config.hidden_size)
        self.saliency_global_head = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def predict_spans(self, outputs: MomentRetrievalModelOutput) -> torch.Tensor:
        offsets = self.span_head(outputs.intermediate_hidden_states)
        return (offsets + inverse_sigmoid(outputs.reference_anchors)).sigmoid()

    def score_saliency(self, video_states: torch.Tensor, global_states: torch.Tensor | None) -> torch.Tensor:
        clips, context = self.saliency_clip_head(video_states), self.saliency_global_head(global_states)
        return (clips * context.unsqueeze(-2)).sum(dim=-1) * self.config.hidden_size**-0.5
