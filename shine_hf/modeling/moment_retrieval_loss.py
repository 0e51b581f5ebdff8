"""The base loss of Moment-DETR and QD-DETR: matching, span, label and saliency terms.

All layers and all samples are computed at once, in float32. With one target window per query nothing leaves the device; with several,
the matching costs of all layers and samples are transferred once.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from .spans import generalized_temporal_iou, span_to_window

RANK_TEMPERATURE = 0.5
# Labels are graded up to 12 (three annotators, 0 to 4 each); the public code ranks at 11 thresholds and divides by 12.
MAX_GRADE = 12


def is_inside(saliency_labels: torch.Tensor) -> torch.Tensor:
    """Which clips count as inside the moment: `(B, T)` labels (0/1, soft or graded) -> `(B, T)` bool."""
    return saliency_labels >= 0.5


def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    """Mean over the elements that `mask` keeps; 0 where it keeps none, whatever stands elsewhere (infinity and NaN included)."""
    mask = mask.expand_as(values)
    return values.masked_fill(~mask, 0).sum(dim) / mask.sum(dim).clamp(min=1)


def match_windows(
    logits: torch.Tensor, spans: torch.Tensor, target_spans: torch.Tensor, target_mask: torch.Tensor, config
) -> tuple[torch.Tensor, torch.Tensor]:
    """One-to-one matching of candidates and target windows with the lowest total cost.

    Args:
        logits (`(layers, B, Q, 2)`), spans (`(layers, B, Q, 2)`): Predictions.
        target_spans (`(B, W, 2)`), target_mask (`(B, W)` bool): Target windows, centre and width.

    Returns:
        Index of the candidate of each window `(layers, B, W)`, and which windows have one `(layers, B, W)`: those that exist, and
        no more than Q of them.
    """
    with torch.no_grad():
        foreground = logits.softmax(dim=-1)[..., 0].unsqueeze(-1)
        distance = (spans.unsqueeze(-2) - target_spans.unsqueeze(-3)).abs().sum(dim=-1)
        giou = generalized_temporal_iou(
            span_to_window(spans).unsqueeze(-2), span_to_window(target_spans).unsqueeze(-3)
        )
        cost = (
            config.matcher_span_cost * distance
            - config.matcher_giou_cost * giou
            - config.matcher_class_cost * foreground
        )
        if target_spans.shape[-2] == 1:
            return cost.argmin(dim=-2), target_mask.expand(len(logits), -1, -1)

        cost, mask = cost.cpu(), target_mask.cpu()
        if not torch.isfinite(cost).all():
            raise ValueError("the predictions hold NaN or infinity, so candidates cannot be matched to windows")
        index = torch.zeros(*cost.shape[:2], cost.shape[-1], dtype=torch.long)
        has_candidate = torch.zeros_like(index, dtype=torch.bool)
        for layer, layer_cost in enumerate(cost):
            for sample, (sample_cost, sample_mask) in enumerate(zip(layer_cost, mask)):
                windows = sample_mask.nonzero().flatten()
                rows, columns = linear_sum_assignment(sample_cost[:, windows])
                index[layer, sample, windows[columns]] = torch.as_tensor(rows)
                has_candidate[layer, sample, windows[columns]] = True
        return index.to(logits.device), has_candidate.to(logits.device)


def span_and_label_losses(logits, spans, target_spans, target_mask, config):
    """L1 and generalised-IoU loss of the matched candidates, and foreground/background cross-entropy of all.

    Shapes as in [`match_windows`]. The cross-entropy is a plain mean over the candidates, not divided by the class weights.

    Returns:
        `{"loss_span", "loss_giou", "loss_label"}`, each `(layers,)`, and which candidates are matched `(layers, B, Q)`.
    """
    index, has_candidate = match_windows(logits, spans, target_spans, target_mask, config)
    matched = spans.gather(-2, index.unsqueeze(-1).expand(-1, -1, -1, 2))
    distance = (matched - target_spans).abs().mean(dim=-1)
    giou = generalized_temporal_iou(span_to_window(matched), span_to_window(target_spans))
    foreground = (F.one_hot(index, spans.shape[-2]).bool() & has_candidate.unsqueeze(-1)).any(dim=-2)

    log_probability = logits.log_softmax(dim=-1)
    cross_entropy = torch.where(
        foreground, -log_probability[..., 0], -config.background_weight * log_probability[..., 1]
    )
    losses = {
        "loss_span": masked_mean(distance, has_candidate, (1, 2)),
        "loss_giou": masked_mean(1 - giou, has_candidate, (1, 2)),
        "loss_label": cross_entropy.mean(dim=(1, 2)),
    }
    return losses, foreground


def negative_pair_loss(irrelevant_scores, video_mask, irrelevant_mask) -> torch.Tensor:
    """Scores under an irrelevant query should be low: softplus summed over the clips, mean over the samples that have one."""
    per_sample = (F.softplus(irrelevant_scores) * video_mask).sum(dim=1)
    return masked_mean(per_sample, irrelevant_mask, 0)


def rank_contrastive_loss(scores, irrelevant_scores, saliency_labels, video_mask, irrelevant_mask) -> torch.Tensor:
    """Clips of a high grade against all clips, under the query and under an irrelevant one (QD-DETR, arXiv 2303.13874).

    Args:
        scores, irrelevant_scores, saliency_labels, video_mask (`(B, T)`), irrelevant_mask (`(B,)`): The irrelevant scores of
            samples without an irrelevant query are left out.
    """
    valid = torch.cat([video_mask, video_mask * irrelevant_mask.unsqueeze(1)], dim=1).bool()
    logits = torch.cat([scores, irrelevant_scores], dim=1).masked_fill(~valid, -1000.0) / RANK_TEMPERATURE
    logits = logits - logits.max(dim=1, keepdim=True).values
    log_probability = logits - (logits.exp().sum(dim=1, keepdim=True) + 1e-6).log()

    # Rounding makes a soft label count as inside from 0.5 on and leaves integers as they are.
    grade = (saliency_labels + 0.5).floor() * video_mask
    thresholds = torch.arange(1, MAX_GRADE, device=grade.device).view(-1, 1, 1)
    positive = (grade >= thresholds).to(logits.dtype)
    per_sample = -(positive * log_probability[:, : scores.shape[1]]).sum(-1) / (positive.sum(-1) + 1e-6)
    return per_sample.mean(dim=1).sum() / MAX_GRADE


def margin_pair_loss(scores, positive_clips, negative_clips, margin) -> torch.Tensor:
    """Hinge between drawn pairs of clips inside and outside the moment: `(B, P)` indices, -1 where there is none."""
    present = (positive_clips >= 0) & (negative_clips >= 0)
    inside = scores.gather(1, positive_clips.clamp(min=0))
    outside = scores.gather(1, negative_clips.clamp(min=0))
    # The factor 2 is that of the public code, which divides by the pairs and multiplies by two.
    return 2 * masked_mean((margin + outside - inside).relu(), present, (0, 1))


def saliency_losses(scores, irrelevant_scores, irrelevant_mask, labels, video_mask, config) -> dict[str, torch.Tensor]:
    """The saliency terms and their sum `loss_saliency`; without irrelevant scores, the margin term alone."""
    terms = {}
    if irrelevant_scores is not None:
        irrelevant_scores = irrelevant_scores.float()
        terms["loss_saliency_negative_pair"] = negative_pair_loss(irrelevant_scores, video_mask, irrelevant_mask)
        terms["loss_saliency_rank_contrastive"] = rank_contrastive_loss(
            scores, irrelevant_scores, labels["saliency"].float(), video_mask, irrelevant_mask
        )
    if labels.get("positive_clips") is not None:
        terms["loss_saliency_margin"] = margin_pair_loss(
            scores, labels["positive_clips"], labels["negative_clips"], config.saliency_margin
        )
    total = sum(terms.values()) if terms else scores.new_zeros(())
    return {"loss_saliency": total, **terms}


def contrastive_alignment_loss(query_embedding, text_embedding, matched, text_mask, temperature) -> torch.Tensor:
    """Pull the matched candidates towards the tokens of their query (Moment-DETR's optional term).

    Args:
        query_embedding (`(layers, B, Q, C)`), text_embedding (`(B, L, C)`): Projected decoder states and tokens.
        matched (`(layers, B, Q)` bool), text_mask (`(B, L)`): Which candidates are matched, and which tokens are valid.

    Returns:
        `(layers,)`
    """
    query_embedding = F.normalize(query_embedding.float(), dim=-1)
    text_embedding = F.normalize(text_embedding.float(), dim=-1) * text_mask.unsqueeze(-1)
    logits = (query_embedding @ text_embedding.transpose(1, 2)).sum(dim=-1) / temperature
    per_sample = logits.logsumexp(dim=-1) - masked_mean(logits, matched, -1)
    return masked_mean(per_sample, matched.any(dim=-1), 1)


def moment_retrieval_loss(
    logits, spans, scores, irrelevant_scores, irrelevant_mask, labels, video_mask, config, layer_terms=None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Weighted sum of all terms, and every term unweighted.

    Args:
        logits (`(layers, B, Q, 2)`), spans (`(layers, B, Q, 2)`): Predictions of the supervised decoder layers, the last one last.
        scores (`(B, T)`), irrelevant_scores (`(B, T)`, *optional*): Saliency under the query and under an irrelevant one.
        irrelevant_mask (`(B,)`, *optional*): Which samples have an irrelevant query.
        labels (`dict`), video_mask (`(B, T)`): See `forward` of the models.
        layer_terms (*optional*): `function(matched (layers, B, Q)) -> {"loss_<name>": (layers,)}` with a model's own terms, weighted by
            `config.<name>_loss_weight`.
    """
    logits, spans, scores = logits.float(), spans.float(), scores.float()
    per_layer, matched = span_and_label_losses(
        logits, spans, labels["spans"].float(), labels["span_mask"].bool(), config
    )
    if layer_terms is not None:
        per_layer |= layer_terms(matched)
    losses = {name: values[-1] for name, values in per_layer.items()}
    losses |= saliency_losses(scores, irrelevant_scores, irrelevant_mask, labels, video_mask.float(), config)
    total = config.saliency_loss_weight * losses["loss_saliency"]
    for name, values in per_layer.items():
        total = total + getattr(config, f"{name.removeprefix('loss_')}_loss_weight") * values.sum()
        losses |= {f"{name}_{layer}": value for layer, value in enumerate(values[:-1])}
    return total, losses
