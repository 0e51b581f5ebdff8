"""The coarse ranking loss of SHINE: clips inside the moment rank above those outside, and the query above an irrelevant one."""

from typing import NamedTuple

import torch

from ..modeling.moment_retrieval_loss import is_inside, masked_mean


class CoarseRankingLoss(NamedTuple):
    """The two terms, as scalars or with one value per sample. Their sum is the coarse loss of the paper."""

    intra: torch.Tensor
    inter: torch.Tensor


def coarse_ranking_loss(
    saliency_scores: torch.Tensor,
    irrelevant_saliency_scores: torch.Tensor,
    saliency_labels: torch.Tensor,
    video_attention_mask: torch.Tensor,
    *,
    intra_margin: float = 1.0,
    inter_margin: float = 2.0,
    top_k_divisor: int = 8,
    irrelevant_mask: torch.Tensor | None = None,
) -> CoarseRankingLoss:
    r"""Compute the coarse-grained saliency ranking loss of SHINE (arXiv 2407.05118).

    Let \\(\bar s\\) be the mean of the k highest scores among the \\(T^+\\) clips inside the moment, \\(k = \max(1, \lfloor T^+ / q \rfloor)\\),
    \\(\bar s^-\\) the same under the irrelevant query, and \\(s^{out}\\) the highest score outside:

    $$ L_{intra} = \max(0, m_1 + s^{out} - \bar s), \qquad L_{inter} = \max(0, m_2 + \bar s^- - \bar s) $$

    Args:
        saliency_scores (`(B, T)`): Scores under the query.
        irrelevant_saliency_scores (`(B, T)`): Scores under an irrelevant query.
        saliency_labels (`(B, T)`): 0/1, soft or graded. A clip is inside if its label is at least 0.5.
        video_attention_mask (`(B, T)`): 1 for valid clips.
        intra_margin, inter_margin (`float`): \\(m_1\\) and \\(m_2\\).
        top_k_divisor (`int`): q.
        irrelevant_mask (`(B,)`, *optional*): Which samples have an irrelevant query. The others have no inter term.

    Returns:
        Scalars, each a mean over the samples that have the term. A sample without a clip inside has neither. If no clip is outside
        (a moment that covers the entire video), the first clip is used, as in the authors' code.

    Raises:
        ValueError: for a divisor below 1.
    """
    hinges = coarse_ranking_hinges(
        saliency_scores,
        irrelevant_saliency_scores,
        saliency_labels,
        video_attention_mask,
        intra_margin=intra_margin,
        inter_margin=inter_margin,
        top_k_divisor=top_k_divisor,
    )
    rows = coarse_ranking_rows(saliency_labels, video_attention_mask, irrelevant_mask)
    return CoarseRankingLoss(*(masked_mean(hinge, has_term, 0) for hinge, has_term in zip(hinges, rows)))


def coarse_ranking_rows(
    saliency_labels: torch.Tensor, video_attention_mask: torch.Tensor, irrelevant_mask: torch.Tensor | None = None
) -> CoarseRankingLoss:
    """Return which samples have each term of [`coarse_ranking_loss`], `(B,)` bool."""
    has_moment = (is_inside(saliency_labels) & video_attention_mask.bool()).any(dim=1)
    return CoarseRankingLoss(
        has_moment, has_moment if irrelevant_mask is None else has_moment & irrelevant_mask.bool()
    )


def coarse_ranking_hinges(
    saliency_scores: torch.Tensor,
    irrelevant_saliency_scores: torch.Tensor,
    saliency_labels: torch.Tensor,
    video_attention_mask: torch.Tensor,
    *,
    intra_margin: float,
    inter_margin: float,
    top_k_divisor: int,
) -> CoarseRankingLoss:
    """Return the two hinges of each sample, `(B,)`, which [`coarse_ranking_loss`] averages. Samples without a term have arbitrary values.

    Raises:
        ValueError: for a divisor below 1.
    """
    if top_k_divisor < 1:
        raise ValueError(f"top_k_divisor must be at least 1, got {top_k_divisor}")
    scores, irrelevant = saliency_scores.float(), irrelevant_saliency_scores.float()
    valid = video_attention_mask.bool()
    inside = is_inside(saliency_labels) & valid
    outside = ~inside & valid

    k = torch.div(inside.sum(dim=1, keepdim=True), top_k_divisor, rounding_mode="floor").clamp(min=1)
    score_inside = _mean_of_highest(scores, inside, k)
    score_irrelevant = _mean_of_highest(irrelevant, inside, k)
    score_outside = scores.masked_fill(~outside, -torch.inf).max(dim=1).values
    score_outside = torch.where(outside.any(dim=1), score_outside, scores[:, 0])
    return CoarseRankingLoss(
        intra=(intra_margin + score_outside - score_inside).relu(),
        inter=(inter_margin + score_irrelevant - score_inside).relu(),
    )


def _mean_of_highest(scores: torch.Tensor, mask: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the mean of the k highest scores in `mask` (which keeps at least k, or none): `(B, T)`, `(B, T)`, `(B, 1)` -> `(B,)`."""
    highest = scores.masked_fill(~mask, -torch.inf).sort(dim=1, descending=True).values
    rank = torch.arange(scores.shape[1], device=scores.device)
    return masked_mean(highest, (rank < k) & mask.any(dim=1, keepdim=True), 1)
