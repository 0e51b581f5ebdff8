"""Moment-DETR: a DETR encoder and decoder over clips and tokens (arXiv 2107.09609)."""

import torch
from torch import nn

from .configuration_moment_detr import MomentDetrConfig
from .layers import EncoderLayer, QueryDecoder, clip_position_embedding, key_padding_bias
from .modeling_moment_retrieval import (
    EncodedQueries,
    MomentRetrievalModel,
    MomentRetrievalModelOutput,
    MomentRetrievalModelWithHeads,
)
from .moment_retrieval_loss import contrastive_alignment_sums


class MomentDetrModel(MomentRetrievalModel):
    """Encoder and decoder of Moment-DETR; `forward` is documented in [`MomentRetrievalModel`]."""

    config_class = MomentDetrConfig

    def __init__(self, config: MomentDetrConfig):
        super().__init__(config)
        self.encoder = nn.ModuleList(EncoderLayer(config, nn.ReLU()) for _ in range(config.encoder_layers))
        self.query_vectors = nn.Parameter(torch.empty(config.num_queries, config.hidden_size))
        self.decoder = QueryDecoder(config)
        self.post_init()

    def _position(self, video_mask: torch.Tensor, num_tokens, dtype):
        """Return positions for the clips and zeros for the tokens, `(P, T + L, H)`."""
        position = clip_position_embedding(video_mask, self.config.hidden_size).to(dtype)
        return nn.functional.pad(position, (0, 0, 0, num_tokens))

    def encode(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        groups: list[int],
    ) -> EncodedQueries:
        states = torch.cat([video, text], dim=1)
        position = self._position(video_mask, text.shape[1], states.dtype)
        bias = key_padding_bias(torch.cat([video_mask, text_mask], dim=1), states.dtype)
        hidden_states, attentions = [states], []
        for layer in self.encoder:
            states, weights = layer(states, position, bias)
            hidden_states.append(states)
            attentions.append(weights)
        video, text = states.split([video.shape[1], text.shape[1]], dim=1)
        return EncodedQueries(video, None, text, tuple(hidden_states), tuple(attentions))

    def decode(
        self, encoded: EncodedQueries, video_mask: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, None, tuple]:
        memory = torch.cat([encoded.video_states, encoded.text_states], dim=1)
        position = self._position(video_mask, text_mask.shape[1], memory.dtype)
        bias = key_padding_bias(torch.cat([video_mask, text_mask], dim=1), memory.dtype)
        states, weights = self.decoder(self.query_vectors, memory, position, bias)
        return states, None, weights


class MomentDetrForMomentRetrieval(MomentRetrievalModelWithHeads):
    """Moment-DETR with class, span and saliency heads; `forward` is documented in [`MomentRetrievalModelWithHeads`]."""

    config_class = MomentDetrConfig
    uses_negative_queries = False

    def __init__(self, config: MomentDetrConfig):
        super().__init__(config, MomentDetrModel(config))
        self.saliency_head = nn.Linear(config.hidden_size, 1)
        if config.contrastive_loss_weight:
            self.contrastive_query_head = nn.Linear(config.hidden_size, config.contrastive_size)
            self.contrastive_text_head = nn.Linear(config.hidden_size, config.contrastive_size)
        self.post_init()

    def predict_spans(self, outputs: MomentRetrievalModelOutput) -> torch.Tensor:
        return self.span_head(outputs.intermediate_hidden_states).sigmoid()

    def score_saliency(self, video_states: torch.Tensor, global_states: torch.Tensor | None) -> torch.Tensor:
        return self.saliency_head(video_states).squeeze(-1)

    def layer_losses(
        self, outputs: MomentRetrievalModelOutput, matched: torch.Tensor, text_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        if not self.config.contrastive_loss_weight:
            return {}
        loss = contrastive_alignment_sums(
            self.contrastive_query_head(outputs.intermediate_hidden_states[-len(matched) :]),
            self.contrastive_text_head(outputs.text_states[:, : text_mask.shape[1]]),
            matched,
            text_mask,
            self.config.contrastive_temperature,
        )
        return {"loss_contrastive": loss}
