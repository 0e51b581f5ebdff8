"""The base loss of Moment-DETR and QD-DETR: matching, span, label and saliency terms.

All layers and samples are computed at once, in float32. With a single target window per query, nothing is transferred to the CPU. With several,
the matching costs of all layers and samples are transferred once.

Each term is a sum over predictions divided by a count, which depends only on labels and masks. Both are computed per row, so they can be added
up over the parts of a batch (accumulation steps, processes), and splitting a batch does not change the loss.
"""

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from .configuration_moment_retrieval import MomentRetrievalConfig
from .spans import generalized_temporal_iou, span_to_window

RANK_TEMPERATURE = 0.5
# Grades go up to 12 (three annotators, 0 to 4 each). The authors' code ranks at 11 thresholds and divides by 12.
MAX_GRADE = 12


def is_inside(saliency_labels: torch.Tensor) -> torch.Tensor:
    """Return which clips count as inside the moment: `(B, T)` labels (0/1, soft or graded) -> `(B, T)` bool."""
    return saliency_labels >= 0.5


def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    """Return the mean over the elements in `mask`; 0 if there are none. Other elements may be infinite or NaN."""
    mask = mask.expand_as(values)
    return values.masked_fill(~mask, 0).sum(dim) / mask.sum(dim).clamp(min=1)


def match_windows(
    logits: torch.Tensor,
    spans: torch.Tensor,
    target_spans: torch.Tensor,
    target_mask: torch.Tensor,
    config: MomentRetrievalConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Match candidates and target windows one to one with minimum total cost.

    Args:
        logits (`(layers, B, Q, 2)`), spans (`(layers, B, Q, 2)`): Predictions.
        target_spans (`(B, W, 2)`), target_mask (`(B, W)` bool): Target windows, center and width.

    Returns:
        Index of the candidate of each window `(layers, B, W)`, and which windows have one `(layers, B, W)`: all existing windows, but at most
        Q.
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

        # How non-finite predictions are matched does not matter: the loss is non-finite, and the trainer reports the queries.
        cost, mask = cost.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).cpu(), target_mask.cpu()
        index = torch.zeros(*cost.shape[:2], cost.shape[-1], dtype=torch.long)
        has_candidate = torch.zeros_like(index, dtype=torch.bool)
        for layer, layer_cost in enumerate(cost):
            for sample, (sample_cost, sample_mask) in enumerate(zip(layer_cost, mask)):
                windows = sample_mask.nonzero().flatten()
                rows, columns = linear_sum_assignment(sample_cost[:, windows])
                index[layer, sample, windows[columns]] = torch.as_tensor(rows)
                has_candidate[layer, sample, windows[columns]] = True
        return index.to(logits.device), has_candidate.to(logits.device)


def loss_counts(
    labels: dict[str, torch.Tensor], irrelevant_mask: torch.Tensor | None, num_candidates: int
) -> dict[str, torch.Tensor]:
    """Return the number of elements in each row over which each term is averaged, `(B, 1)` float. Other terms are means over rows.

    Args:
        labels (`dict`): See `forward` of the models.
        irrelevant_mask (`(B,)`, *optional*): Which samples have an irrelevant query.
        num_candidates (`int`): Q, the maximum number of matched windows.
    """
    windows = labels["span_mask"].bool().sum(dim=1, keepdim=True).clamp(max=num_candidates)
    counts = {"loss_span": windows, "loss_giou": windows, "loss_contrastive": windows.clamp(max=1)}
    if irrelevant_mask is not None:
        counts["loss_saliency_negative_pair"] = irrelevant_mask.unsqueeze(1)
    if labels.get("positive_clips") is not None:
        pairs = _pair_mask(labels["positive_clips"], labels["negative_clips"])
        counts["loss_saliency_margin"] = pairs.sum(dim=1, keepdim=True)
    return {name: count.float() for name, count in counts.items()}


def mean_terms(sums: dict[str, torch.Tensor], counts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Divide the row sums `(B, K)` by their counts `(B, 1)` or `(B, K)`, by default one per row. Return terms `(K,)`, 0 if the count is 0."""
    return {
        name: rows.sum(dim=0) / (counts[name].sum(dim=0).clamp(min=1) if name in counts else len(rows))
        for name, rows in sums.items()
    }


def span_and_label_sums(
    logits: torch.Tensor,
    spans: torch.Tensor,
    target_spans: torch.Tensor,
    target_mask: torch.Tensor,
    config: MomentRetrievalConfig,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Compute the L1 and generalized-IoU losses of the matched candidates, and the foreground/background cross-entropy of all.

    For the shapes, see [`match_windows`]. The cross-entropy is an unweighted mean over the candidates, not divided by the class weights.

    Returns:
        `{"loss_span", "loss_giou", "loss_label"}`, each `(B, layers)`, and which candidates are matched `(layers, B, Q)`.
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
    sums = {
        "loss_span": distance.masked_fill(~has_candidate, 0).sum(dim=-1),
        "loss_giou": (1 - giou).masked_fill(~has_candidate, 0).sum(dim=-1),
        "loss_label": cross_entropy.mean(dim=-1),
    }
    return {name: per_layer.T for name, per_layer in sums.items()}, foreground


def negative_pair_sums(
    irrelevant_scores: torch.Tensor | None, video_mask: torch.Tensor, irrelevant_mask: torch.Tensor | None
) -> torch.Tensor:
    """Penalize high scores under an irrelevant query: the softplus summed over the clips, `(B,)`; 0 for samples without such a query."""
    per_sample = (F.softplus(irrelevant_scores) * video_mask).sum(dim=1)
    return per_sample.masked_fill(~irrelevant_mask, 0)


def rank_contrastive_sums(
    scores: torch.Tensor,
    irrelevant_scores: torch.Tensor | None,
    saliency_labels: torch.Tensor,
    video_mask: torch.Tensor,
    irrelevant_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Contrast clips with a high grade with all clips, under the query and under an irrelevant one (QD-DETR, arXiv 2303.13874).

    Args:
        scores, irrelevant_scores (`(B, T)`): Saliency under the query and under the irrelevant one.
        saliency_labels, video_mask (`(B, T)`): Labels, and which clips are valid.
        irrelevant_mask (`(B,)`): Which samples have an irrelevant query. The irrelevant scores of the others are ignored.

    Returns:
        One value per sample, `(B,)`.
    """
    valid = torch.cat([video_mask, video_mask * irrelevant_mask.unsqueeze(1)], dim=1).bool()
    logits = torch.cat([scores, irrelevant_scores], dim=1).masked_fill(~valid, -1000.0) / RANK_TEMPERATURE
    logits = logits - logits.max(dim=1, keepdim=True).values
    log_probability = logits - (logits.exp().sum(dim=1, keepdim=True) + 1e-6).log()

    # Rounding counts soft labels of at least 0.5 as inside, and does not change integers.
    grade = (saliency_labels + 0.5).floor() * video_mask
    thresholds = torch.arange(1, MAX_GRADE, device=grade.device).view(-1, 1, 1)
    positive = (grade >= thresholds).to(logits.dtype)
    per_sample = -(positive * log_probability[:, : scores.shape[1]]).sum(-1) / (positive.sum(-1) + 1e-6)
    return per_sample.sum(dim=0) / MAX_GRADE


def _pair_mask(positive_clips: torch.Tensor, negative_clips: torch.Tensor) -> torch.Tensor:
    """Return which pairs of clips exist, `(B, P)`. The index -1 means none."""
    return (positive_clips >= 0) & (negative_clips >= 0)


def margin_pair_sums(
    scores: torch.Tensor, positive_clips: torch.Tensor, negative_clips: torch.Tensor, margin: float
) -> torch.Tensor:
    """Compute hinges for pairs of clips inside and outside the moment: indices `(B, P)`, -1 for none -> `(B,)`."""
    inside = scores.gather(1, positive_clips.clamp(min=0))
    outside = scores.gather(1, negative_clips.clamp(min=0))
    hinges = (margin + outside - inside).relu().masked_fill(~_pair_mask(positive_clips, negative_clips), 0)
    # The factor 2 is from the authors' code, which divides by the number of pairs and multiplies by two.
    return 2 * hinges.sum(dim=1)


def saliency_sums(
    scores: torch.Tensor,
    irrelevant_scores: torch.Tensor | None,
    irrelevant_mask: torch.Tensor | None,
    labels: dict[str, torch.Tensor],
    video_mask: torch.Tensor,
    config: MomentRetrievalConfig,
) -> dict[str, torch.Tensor]:
    """Return the sums of the saliency terms, `(B, 1)` each. Without irrelevant scores, there is only the margin term."""
    sums = {}
    if irrelevant_scores is not None:
        irrelevant_scores = irrelevant_scores.float()
        sums["loss_saliency_negative_pair"] = negative_pair_sums(irrelevant_scores, video_mask, irrelevant_mask)
        sums["loss_saliency_rank_contrastive"] = rank_contrastive_sums(
            scores, irrelevant_scores, labels["saliency"].float(), video_mask, irrelevant_mask
        )
    if labels.get("positive_clips") is not None:
        sums["loss_saliency_margin"] = margin_pair_sums(
            scores, labels["positive_clips"], labels["negative_clips"], config.saliency_margin
        )
    return {name: rows.unsqueeze(1) for name, rows in sums.items()}


def contrastive_alignment_sums(
    query_embedding: torch.Tensor,
    text_embedding: torch.Tensor,
    matched: torch.Tensor,
    text_mask: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Pull the matched candidates toward the tokens of their query (Moment-DETR's optional term).

    Args:
        query_embedding (`(layers, B, Q, C)`), text_embedding (`(B, L, C)`): Projected decoder states and tokens.
        matched (`(layers, B, Q)` bool), text_mask (`(B, L)`): Which candidates are matched, and which tokens are valid.

    Returns:
        One value per sample and layer, `(B, layers)`.
    """
    query_embedding = F.normalize(query_embedding.float(), dim=-1)
    text_embedding = F.normalize(text_embedding.float(), dim=-1) * text_mask.unsqueeze(-1)
    # The sum of the similarities with all tokens, as an elementwise product, which autocast keeps in float32.
    logits = (query_embedding * text_embedding.sum(dim=1, keepdim=True)).sum(dim=-1) / temperature
    per_sample = logits.logsumexp(dim=-1) - masked_mean(logits, matched, -1)
    return per_sample.masked_fill(~matched.any(dim=-1), 0).T


def weigh_losses(
    terms: dict[str, torch.Tensor], config: MomentRetrievalConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the weighted sum of terms `(K,)`, and each term unweighted.

    K is 1 for saliency terms and the number of supervised layers for the others. The unweighted terms include the sum of the saliency terms as
    `loss_saliency`, and the terms of earlier layers as `loss_<name>_0`, `_1`, …
    """
    saliency = {name: values.sum() for name, values in terms.items() if name.startswith("loss_saliency")}
    per_layer = {name: values for name, values in terms.items() if name not in saliency}
    losses = {name: values[-1] for name, values in per_layer.items()}
    losses |= {"loss_saliency": sum(saliency.values(), next(iter(terms.values())).new_zeros(())), **saliency}
    total = config.saliency_loss_weight * losses["loss_saliency"]
    for name, values in per_layer.items():
        total = total + getattr(config, f"{name.removeprefix('loss_')}_loss_weight") * values.sum()
        losses |= {f"{name}_{layer}": value for layer, value in enumerate(values[:-1])}
    return total, losses


def moment_retrieval_loss(
    logits: torch.Tensor,
    spans: torch.Tensor,
    scores: torch.Tensor,
    irrelevant_scores: torch.Tensor | None,
    irrelevant_mask: torch.Tensor | None,
    labels: dict[str, torch.Tensor],
    video_mask: torch.Tensor,
    config: MomentRetrievalConfig,
    layer_terms: Callable[[torch.Tensor], dict[str, torch.Tensor]] | None = None,
    reduce: bool = True,
) -> tuple[torch.Tensor | None, dict[str, torch.Tensor] | None, dict[str, torch.Tensor], torch.Tensor]:
    """Return the weighted sum of all terms, each term unweighted, the row sums of the terms, `(B, K)` (see [`mean_terms`]), and which
    candidates are matched, `(layers, B, Q)`.

    Args:
        logits (`(layers, B, Q, 2)`), spans (`(layers, B, Q, 2)`): Predictions of the supervised decoder layers, the last one last.
        scores (`(B, T)`), irrelevant_scores (`(B, T)`, *optional*): Saliency under the query and under an irrelevant one.
        irrelevant_mask (`(B,)`, *optional*): Which samples have an irrelevant query.
        labels (`dict`), video_mask (`(B, T)`): See `forward` of the models.
        layer_terms (*optional*): `function(matched (layers, B, Q)) -> {"loss_<name>": (B, layers)}` with additional terms of a model, whose
            weights are `config.<name>_loss_weight`.
        reduce: Whether to compute the weighted sum and the terms; otherwise both are None.
    """
    logits, spans, scores = logits.float(), spans.float(), scores.float()
    sums, matched = span_and_label_sums(logits, spans, labels["spans"].float(), labels["span_mask"].bool(), config)
    if layer_terms is not None:
        sums |= layer_terms(matched)
    sums |= saliency_sums(scores, irrelevant_scores, irrelevant_mask, labels, video_mask.float(), config)
    if not reduce:
        return None, None, sums, matched
    counts = loss_counts(labels, irrelevant_mask, logits.shape[-2])
    return *weigh_losses(mean_terms(sums, counts), config), sums, matched
