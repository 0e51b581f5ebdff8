"""Base classes of all moment-retrieval models: outputs, weight initialization, and the forward pass around encoder and decoder.

A model defines `encode` and `decode` ([`MomentRetrievalModel`]) and its span and saliency heads ([`MomentRetrievalModelWithHeads`]). For
examples, see modeling_qd_detr.py and modeling_moment_detr.py.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_moment_retrieval import MomentRetrievalConfig
from .layers import MLP, InputProjection, append_endpoint_features
from .moment_retrieval_loss import loss_counts, moment_retrieval_loss, weigh_losses


@dataclass
class MomentRetrievalModelOutput(ModelOutput):
    """
    Output of the models without heads.

    Args:
        last_hidden_state (`(B, Q, H)`): Normalized states of the last decoder layer.
        intermediate_hidden_states (`(layers, B, Q, H)`): Normalized states of every decoder layer.
        reference_anchors (`(layers, B, Q, 2)`, *optional*): Anchors (center, width) before each decoder layer, QD-DETR only.
        video_states (`(B, T, H)`): Encoded clips.
        global_state (`(B, H)`, *optional*): Encoded global token, QD-DETR only.
        text_states (`(B, L, H)`, *optional*): Encoded tokens, Moment-DETR only.
        negative_video_states (`(B, N, T, H)`), negative_global_states (`(B, N, H)`), *optional*: Encoded clips and global tokens for each
            negative.
        negative_last_hidden_state (`(B, N, Q, H)`, with `decode_negatives`): `last_hidden_state` for each negative.
        encoder_hidden_states (tuple of `(B, S, H)`, *optional*): Input and output of every encoder layer, for the query.
        encoder_attentions (tuple, *optional*): Attention weights of the text-to-video and encoder layers, for the query.
        decoder_attentions, cross_attentions (tuple of `(B, heads, Q, .)`, *optional*): Attention weights of the decoder.
    """

    last_hidden_state: torch.Tensor | None = None
    intermediate_hidden_states: torch.Tensor | None = None
    reference_anchors: torch.Tensor | None = None
    video_states: torch.Tensor | None = None
    global_state: torch.Tensor | None = None
    text_states: torch.Tensor | None = None
    negative_video_states: torch.Tensor | None = None
    negative_global_states: torch.Tensor | None = None
    negative_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MomentRetrievalOutput(ModelOutput):
    """
    Output of the models with heads.

    Args:
        loss (scalar, with `labels`): Weighted sum of the terms.
        loss_dict (`dict[str, torch.Tensor]`, with `labels`): Every term, unweighted. Terms of earlier layers have the suffix `_0`, `_1`, …
        loss_sums (`dict[str, (B, K)]`, with `labels`): Sums of the terms in each row. Divided by [`loss_counts`], they give the terms.
        logits (`(B, Q, 2)`): Class scores of the candidates. Index 0 is the foreground, 1 the background.
        pred_spans (`(B, Q, 2)`): Center and width of the candidates, as fractions of the video.
        saliency_scores (`(B, T)`): How well each clip matches the query, unbounded. Scores of padded clips are meaningless.
        negative_saliency_scores (`(B, N, T)`, with negatives): Saliency for each negative query.
        negative_logits (`(B, N, Q, 2)`, with `decode_negatives`): Class scores of the candidates for each negative query.
        matched_candidates (`(B, Q)` bool, with `decode_negatives` and `labels`): Which candidates the base loss matched with a window.
        saliency_weight (`(B,)`, with `config.saliency_weight`): The configured weight, for the processor.
        auxiliary_outputs (list of dict, with `config.auxiliary_loss`): `logits` and `pred_spans` of the earlier decoder layers.
        last_hidden_state to cross_attentions: See [`MomentRetrievalModelOutput`].
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    loss_sums: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    pred_spans: torch.Tensor | None = None
    saliency_scores: torch.Tensor | None = None
    negative_saliency_scores: torch.Tensor | None = None
    negative_logits: torch.Tensor | None = None
    matched_candidates: torch.Tensor | None = None
    saliency_weight: torch.Tensor | None = None
    auxiliary_outputs: list[dict[str, torch.Tensor]] | None = None
    last_hidden_state: torch.Tensor | None = None
    video_states: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class EncodedQueries:
    """The result of `encode` for P video-query pairs: states `(P, T, H)`, `(P, H)`, `(P, L, H)`, and the states and weights of all layers."""

    video_states: torch.Tensor
    global_states: torch.Tensor | None = None
    text_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] = ()
    attentions: tuple[torch.Tensor | None, ...] = ()

    def first(self, pairs: int) -> "EncodedQueries":
        """Return the final states of the first pairs, without the states of each layer."""
        states = (self.video_states, self.global_states, self.text_states)
        return EncodedQueries(*(None if state is None else state[:pairs] for state in states))


class MomentRetrievalPreTrainedModel(PreTrainedModel):
    """Weight initialization, and flags for transformers."""

    base_model_prefix = "model"
    main_input_name = "video_features"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("EncoderLayer", "TextToVideoLayer", "DecoderLayer")
    # The loss is a mean over the batch. Otherwise, `Trainer` would scale it by the numbers of accumulation steps and processes.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialize weights as the authors' code does: Xavier inside the transformer, PyTorch's defaults in projections and heads."""
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.bias, -bound, bound)
            if hasattr(module, "xavier_gain"):
                init.xavier_uniform_(module.weight, gain=module.xavier_gain)
                if module.zero_bias:
                    init.zeros_(module.bias)
            else:
                init.kaiming_uniform_(module.weight, a=5**0.5)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        for name in ("global_token", "global_position", "anchor_logits", "query_vectors"):
            if isinstance(getattr(module, name, None), nn.Parameter):
                init.normal_(getattr(module, name))


class MomentRetrievalModel(MomentRetrievalPreTrainedModel):
    """Projections, encoder and decoder, without heads. Subclasses define `encode` and `decode`."""

    def __init__(self, config: MomentRetrievalConfig):
        super().__init__(config)
        video_size = config.video_dim + (2 if config.use_tef else 0)
        layers, dropout = config.num_input_projections, config.input_dropout
        self.video_projection = InputProjection(video_size, config.hidden_size, layers, dropout)
        self.text_projection = InputProjection(config.text_dim, config.hidden_size, layers, dropout)

    def encode(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        groups: list[int],
    ) -> EncodedQueries:
        """Encode P pairs of projected clips `(P, T, H)` and tokens `(P, L, H)`.

        `groups` are the sizes of the groups of pairs that the authors' code encodes together (see `batch_coupled_text_mask`).
        """
        raise NotImplementedError

    def decode(
        self, encoded: EncodedQueries, video_mask: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple]:
        """Return decoder states `(layers, B, Q, H)`, anchors `(layers, B, Q, 2)` or None, and attention weights."""
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        video_features: torch.Tensor,
        video_attention_mask: torch.Tensor,
        text_features: torch.Tensor,
        text_attention_mask: torch.Tensor,
        negative_text_features: torch.Tensor | None = None,
        negative_text_attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        decode_negatives: bool = False,
        **kwargs,
    ) -> MomentRetrievalModelOutput:
        """
        Encode videos and queries, and decode moment candidates.

        Args:
            video_features (`(B, T, Dv)`): Clip features, normalized by the processor, without endpoint features.
            video_attention_mask (`(B, T)`): 1 for valid clips.
            text_features (`(B, L, Dt)`), text_attention_mask (`(B, L)`): Token features of the query.
            negative_text_features (`(B, N, Ln, Dt)`), negative_text_attention_mask (`(B, N, Ln)`), *optional*: The negatives of each query,
                of which the last is the irrelevant query. They share the projected video and are encoded in one batch with the queries.
            output_hidden_states, output_attentions (`bool`, *optional*): Return the states and the attention weights of all layers. The
                weights need `attn_implementation="eager"`.
            decode_negatives (`bool`): Decode the negatives too, in one batch with the queries; by default, only the encoder reads them.

        Raises:
            ValueError: if a width differs from the configuration, or the implementation does not return attention weights.
        """
        self._check_inputs(video_features, text_features, negative_text_features)
        config = self.config
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_attentions and config._attn_implementation != "eager":
            raise ValueError(
                f'attn_implementation="{config._attn_implementation}" returns no attention weights; load the model with '
                'attn_implementation="eager"'
            )

        if config.use_tef:
            video_features = append_endpoint_features(video_features, video_attention_mask)
        video = self.video_projection(video_features)
        text, text_mask = self.text_projection(text_features), text_attention_mask
        video_mask, groups, batch = video_attention_mask, [video.shape[0]], video.shape[0]
        negatives = 0 if negative_text_features is None else negative_text_features.shape[1]
        if negatives:
            if negative_text_attention_mask is None:
                negative_text_attention_mask = text_mask.new_ones(negative_text_features.shape[:-1])
            negative_text = self.text_projection(negative_text_features)
            # Query-major order: all queries, all first negatives, …, all irrelevant queries.
            text, text_mask = _stack_queries(text, text_mask, negative_text, negative_text_attention_mask)
            video = video.repeat(1 + negatives, 1, 1)
            video_mask = video_mask.repeat(1 + negatives, 1)
            groups = [batch] + ([(negatives - 1) * batch] if negatives > 1 else []) + [batch]

        encoded = self.encode(video, video_mask, text, text_mask, groups)
        # Decode all pairs with `decode_negatives`; otherwise, only the queries, which come first.
        decoded = len(text) if decode_negatives else batch
        states, anchors, (decoder_attentions, cross_attentions) = self.decode(
            encoded.first(decoded), video_mask[:decoded], text_mask[:decoded]
        )
        positive = encoded.first(batch)

        def split_negatives(stacked):
            return stacked[batch:].unflatten(0, (negatives, batch)).transpose(0, 1) if negatives else None

        return MomentRetrievalModelOutput(
            last_hidden_state=states[-1, :batch],
            intermediate_hidden_states=states[:, :batch],
            reference_anchors=None if anchors is None else anchors[:, :batch],
            video_states=positive.video_states,
            global_state=positive.global_states,
            text_states=positive.text_states,
            negative_video_states=split_negatives(encoded.video_states),
            negative_global_states=None if encoded.global_states is None else split_negatives(encoded.global_states),
            negative_last_hidden_state=split_negatives(states[-1]) if decode_negatives else None,
            encoder_hidden_states=tuple(s[:batch] for s in encoded.hidden_states) if output_hidden_states else None,
            encoder_attentions=tuple(s[:batch] for s in encoded.attentions) if output_attentions else None,
            decoder_attentions=tuple(w[:batch] for w in decoder_attentions) if output_attentions else None,
            cross_attentions=tuple(w[:batch] for w in cross_attentions) if output_attentions else None,
        )

    def _check_inputs(self, video_features, text_features, negative_text_features):
        for name, features, field in (
            ("video_features", video_features, "video_dim"),
            ("text_features", text_features, "text_dim"),
            ("negative_text_features", negative_text_features, "text_dim"),
        ):
            if features is not None and features.shape[-1] != getattr(self.config, field):
                hint = " (without the two endpoint features, which the model appends)" if field == "video_dim" else ""
                raise ValueError(
                    f"{name} has {features.shape[-1]} channels, but config.{field} is {getattr(self.config, field)}{hint}"
                )


def _stack_queries(text: torch.Tensor, text_mask: torch.Tensor, negative_text, negative_mask):
    """Stack queries and negatives in query-major order, `(B, L, H)` and `(B, N, Ln, H)` -> `((1 + N) * B, max(L, Ln), H)`, and their masks."""
    missing = negative_text.shape[2] - text.shape[1]
    text, text_mask = (
        nn.functional.pad(text, (0, 0, 0, max(missing, 0))),
        nn.functional.pad(text_mask, (0, max(missing, 0))),
    )
    negative_text = nn.functional.pad(negative_text, (0, 0, 0, max(-missing, 0)))
    negative_mask = nn.functional.pad(negative_mask, (0, max(-missing, 0)))
    return (
        torch.cat([text, negative_text.transpose(0, 1).flatten(0, 1)]),
        torch.cat([text_mask, negative_mask.transpose(0, 1).flatten(0, 1)]),
    )


class MomentRetrievalModelWithHeads(MomentRetrievalPreTrainedModel):
    """Class, span and saliency heads and the base loss on top of a [`MomentRetrievalModel`]."""

    # Whether the base loss has the saliency terms for negative queries and rank contrast (QD-DETR), or only the margin term for pairs of clips.
    uses_negative_queries = True

    def __init__(self, config: MomentRetrievalConfig, model: MomentRetrievalModel):
        super().__init__(config)
        self.model = model
        self.class_head = nn.Linear(config.hidden_size, 2)
        self.span_head = MLP(config.hidden_size, config.hidden_size, 2, 3)

    def predict_spans(self, outputs: MomentRetrievalModelOutput) -> torch.Tensor:
        """Return center and width of the candidates after each decoder layer, `(layers, B, Q, 2)`."""
        raise NotImplementedError

    def score_saliency(self, video_states: torch.Tensor, global_states: torch.Tensor | None) -> torch.Tensor:
        """Score encoded clips `(..., T, H)`, given global tokens `(..., H)`: `(..., T)`."""
        raise NotImplementedError

    def layer_losses(
        self, outputs: MomentRetrievalModelOutput, matched: torch.Tensor, text_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the row sums of additional loss terms of this model: `matched (layers, B, Q)` -> `{"loss_<name>": (B, layers)}`."""
        return {}

    def loss_counts(
        self,
        labels: dict[str, torch.Tensor],
        text_attention_mask: torch.Tensor,
        negative_text_attention_mask: torch.Tensor | None = None,
        **inputs,
    ) -> dict[str, torch.Tensor]:
        """Return the number of elements in each row over which the terms of `loss_sums` are averaged, without a forward pass.

        Takes the same inputs as `forward`.
        """
        negative_mask = self._negative_mask(text_attention_mask, negative_text_attention_mask)
        irrelevant_mask = negative_mask[:, -1].any(dim=-1) if self.uses_negative_queries else None
        return loss_counts(labels, irrelevant_mask, self.config.num_queries)

    def weigh_losses(self, terms: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return `loss` and `loss_dict` for terms `(K,)`."""
        return weigh_losses(terms, self.config)

    def _negative_mask(self, text_mask: torch.Tensor, negative_text_mask):
        """Return the mask of the negatives, or of the rolled queries that replace them (see `forward`), `(B, N, Ln)`."""
        if negative_text_mask is not None or not self.uses_negative_queries:
            return negative_text_mask
        rolled = text_mask.roll(-1, dims=0).unsqueeze(1)
        return rolled if len(rolled) > 1 else torch.zeros_like(rolled)

    @can_return_tuple
    def forward(
        self,
        video_features: torch.Tensor,
        video_attention_mask: torch.Tensor,
        text_features: torch.Tensor,
        text_attention_mask: torch.Tensor,
        negative_text_features: torch.Tensor | None = None,
        negative_text_attention_mask: torch.Tensor | None = None,
        labels: dict[str, torch.Tensor] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        decode_negatives: bool = False,
        reduce_loss: bool = True,
        **kwargs,
    ) -> MomentRetrievalOutput:
        """
        Predict moments and saliency, and compute the base loss if there are labels.

        For the other arguments, see [`MomentRetrievalModel`]. With labels but without negatives, the queries of the batch, rolled by one,
        serve as irrelevant queries (none for B = 1), as in the authors' code. The collator provides better ones.

        Args:
            labels (`dict`, *optional*): `spans (B, W, 2)` normalized center and width, `span_mask (B, W)`, `saliency (B, T)` (0/1, soft in
                [0, 1], or graded; a clip is inside if its label is at least 0.5), and optionally `positive_clips` and `negative_clips`
                `(B, P)`, the clip indices of the saliency margin term (-1 for none). Without them, the term is left out.
            reduce_loss (`bool`): Whether to compute `loss` and `loss_dict`, or only `loss_sums`, for a step that is split into batches.
        """
        if labels is not None and negative_text_features is None and self.uses_negative_queries:
            negative_text_features = text_features.roll(-1, dims=0).unsqueeze(1)
            negative_text_attention_mask = self._negative_mask(text_attention_mask, None)

        outputs = self.model(
            video_features,
            video_attention_mask,
            text_features,
            text_attention_mask,
            negative_text_features,
            negative_text_attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            decode_negatives=decode_negatives,
            return_dict=True,
        )
        logits = self.class_head(outputs.intermediate_hidden_states)
        spans = self.predict_spans(outputs)
        saliency = self.score_saliency(outputs.video_states, outputs.global_state)
        negative_saliency = None
        if outputs.negative_video_states is not None:
            negative_saliency = self.score_saliency(outputs.negative_video_states, outputs.negative_global_states)
        negative_logits, matched = None, None
        if outputs.negative_last_hidden_state is not None:
            negative_logits = self.class_head(outputs.negative_last_hidden_state)

        loss, loss_dict, loss_sums = None, None, None
        if labels is not None:
            layers = slice(None) if self.config.auxiliary_loss else slice(-1, None)
            loss, loss_dict, loss_sums, matched = moment_retrieval_loss(
                logits[layers],
                spans[layers],
                saliency,
                negative_saliency[:, -1] if self.uses_negative_queries else None,
                negative_text_attention_mask[:, -1].any(dim=-1) if self.uses_negative_queries else None,
                labels,
                video_attention_mask,
                self.config,
                layer_terms=lambda matched: self.layer_losses(outputs, matched, text_attention_mask),
                reduce=reduce_loss,
            )

        weight = self.config.saliency_weight
        auxiliary = None
        if self.config.auxiliary_loss:
            auxiliary = [{"logits": a, "pred_spans": b} for a, b in zip(logits[:-1], spans[:-1])]
        return MomentRetrievalOutput(
            loss=loss,
            loss_dict=loss_dict,
            loss_sums=loss_sums,
            logits=logits[-1],
            pred_spans=spans[-1],
            saliency_scores=saliency,
            negative_saliency_scores=negative_saliency,
            negative_logits=negative_logits,
            matched_candidates=None if matched is None or negative_logits is None else matched[-1],
            saliency_weight=saliency.new_full(saliency.shape[:1], weight, dtype=torch.float32) if weight else None,
            auxiliary_outputs=auxiliary,
            last_hidden_state=outputs.last_hidden_state,
            video_states=outputs.video_states,
            encoder_hidden_states=outputs.encoder_hidden_states,
            decoder_hidden_states=tuple(outputs.intermediate_hidden_states) if output_hidden_states else None,
            encoder_attentions=outputs.encoder_attentions,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
        )
