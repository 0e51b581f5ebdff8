"""The fine ranking loss of SHINE: the query ranks above its hard negatives, in the order of their levels."""

from itertools import accumulate
from typing import Literal

import torch

from ..modeling.moment_retrieval_loss import is_inside, masked_mean

COMPARISONS = ("previous", "first", "query")
_EPS = 1e-9
# Lower bound for the standard deviation by which `standardized_saliency` divides.
_MIN_DEVIATION = 0.1


def fine_ranking_loss(
    saliency_scores: torch.Tensor,
    negative_saliency_scores: torch.Tensor,
    saliency_labels: torch.Tensor,
    video_attention_mask: torch.Tensor,
    *,
    margins: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25),
    compare_to: Literal["previous", "first", "query"] = "previous",
    distance: Literal["cross_entropy", "saliency", "standardized_saliency"] = "cross_entropy",
    negative_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Compute the fine-grained saliency ranking loss of SHINE (arXiv 2407.05118).

    Distances are cross-entropies, averaged over the valid clips: \\(d_0\\) from the labels to the query's saliency, \\(d_n\\) from the query's
    saliency (without its gradient) to the saliency of negative n. Each distance should exceed the previous one by a margin:

    $$ L = \sum_{n=1}^{N} \max(0, m_n + d_{n-1} - d_n) $$

    These distances are only comparable for saliency around 0. If the base loss of QD-DETR pushes the saliency far below 0, \\(d_0\\) is large,
    while the other distances are weighted by a sigmoid near 0 and vanish together with their gradients.

    Two alternatives are not from the paper. With `distance="saliency"`, \\(d_n\\) is the negated mean saliency inside the moment, so adding a
    constant to all scores changes nothing. `distance="standardized_saliency"` divides it by the standard deviation of the query's saliency
    over the clips (without its gradient, at least 0.1), so the margins do not depend on the scale of the scores, and scaling them up does
    not reduce the loss.

    Args:
        saliency_scores (`(B, T)`): Scores under the query.
        negative_saliency_scores (`(B, N, T)`): Scores under the negatives, from level 1 up; the last is the irrelevant query.
        saliency_labels (`(B, T)`): 0/1, soft or graded.
        video_attention_mask (`(B, T)`): 1 for valid clips.
        margins (`tuple` of N floats): \\(m_n\\).
        compare_to: `"previous"` compares each negative with the one before it, and `"first"` compares all later ones with the first, as the
            authors' code can. `"query"`, not from the paper, compares each negative with the query, and the margins up to its level add up. It
            is 0 whenever `"previous"` is. But as long as no margin is kept, `"previous"` has no gradient for the hard negatives: what one
            gets from its own hinge and from that of the next level cancels. With `"query"`, it does not.
        distance: `"cross_entropy"`, `"saliency"` or `"standardized_saliency"`, as above.
        negative_mask (`(B, N)`, *optional*): Which negatives exist. A missing one is skipped: its neighbors are compared with each other.

    Returns:
        Scalar: the sum of the hinges, each averaged over the samples that have it. A sample without a clip inside the moment has none.

    Raises:
        ValueError: if the number of margins is not N, or for an unknown `compare_to` or `distance`.
    """
    if negative_mask is None:
        negative_mask = torch.ones_like(negative_saliency_scores[..., 0], dtype=torch.bool)
    hinges = fine_ranking_hinges(
        saliency_scores,
        negative_saliency_scores,
        saliency_labels,
        video_attention_mask,
        negative_mask,
        margins=margins,
        compare_to=compare_to,
        distance=distance,
    )
    return masked_mean(hinges, fine_ranking_rows(saliency_labels, video_attention_mask, negative_mask), 0).sum()


def fine_ranking_rows(
    saliency_labels: torch.Tensor, video_attention_mask: torch.Tensor, negative_mask: torch.Tensor
) -> torch.Tensor:
    """Return which samples have each hinge of [`fine_ranking_loss`], `(B, N)` bool."""
    has_moment = (is_inside(saliency_labels) & video_attention_mask.bool()).any(dim=1, keepdim=True)
    return negative_mask.bool() & has_moment


def fine_ranking_hinges(
    saliency_scores: torch.Tensor,
    negative_saliency_scores: torch.Tensor,
    saliency_labels: torch.Tensor,
    video_attention_mask: torch.Tensor,
    negative_mask: torch.Tensor,
    *,
    margins: tuple[float, ...],
    compare_to: str,
    distance: str,
) -> torch.Tensor:
    """Return the hinges of each sample, `(B, N)`, which [`fine_ranking_loss`] averages. Hinges of missing negatives have arbitrary values.

    Raises:
        ValueError: as [`fine_ranking_loss`].
    """
    num_negatives = negative_saliency_scores.shape[1]
    if len(margins) != num_negatives:
        raise ValueError(f"{len(margins)} margins for {num_negatives} negatives: give one margin per negative")
    if compare_to not in COMPARISONS:
        raise ValueError(f"compare_to must be one of {', '.join(COMPARISONS)}, got {compare_to!r}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    distances = DISTANCES[distance](
        saliency_scores.float(), negative_saliency_scores.float(), saliency_labels.float(), video_attention_mask.bool()
    )
    present = negative_mask.bool()
    nearer = distances.gather(1, _index_of_nearer(present, compare_to))
    # Add the margins as Python numbers: a tensor of them would have to be copied to the device.
    if compare_to == "query":
        margins = accumulate(margin * present[:, level] for level, margin in enumerate(margins))
    hinges = [margin + nearer[:, level] - distances[:, level + 1] for level, margin in enumerate(margins)]
    return torch.stack(hinges, dim=1).relu()


def _cross_entropies(
    scores: torch.Tensor, negatives: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Return the distances defined in the paper for the query and each negative, `(B, 1 + N)`."""
    relevance = scores.sigmoid()
    to_query = masked_mean(-labels * (relevance + _EPS).log(), valid, 1)
    to_negatives = masked_mean(
        -relevance.detach().unsqueeze(1) * (negatives.sigmoid() + _EPS).log(), valid.unsqueeze(1), 2
    )
    return torch.cat([to_query.unsqueeze(1), to_negatives], dim=1)


def _negated_saliency(
    scores: torch.Tensor, negatives: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Return the negated mean saliency inside the moment under the query and each negative, `(B, 1 + N)`."""
    inside = (is_inside(labels) & valid).unsqueeze(1)
    return -masked_mean(torch.cat([scores.unsqueeze(1), negatives], dim=1), inside, 2)


def _standardized_saliency(
    scores: torch.Tensor, negatives: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Return the distances of [`_negated_saliency`] divided by the query's standard deviation over the valid clips, `(B, 1 + N)`."""
    constant = scores.detach().masked_fill(~valid, 0)
    mean = masked_mean(constant, valid, 1).unsqueeze(1)
    deviation = masked_mean((constant - mean).square(), valid, 1).sqrt().clamp(min=_MIN_DEVIATION)
    return _negated_saliency(scores, negatives, labels, valid) / deviation.unsqueeze(1)


DISTANCES = {
    "cross_entropy": _cross_entropies,
    "saliency": _negated_saliency,
    "standardized_saliency": _standardized_saliency,
}


def _index_of_nearer(present: torch.Tensor, compare_to: str) -> torch.Tensor:
    """Return which distance each negative must exceed: `(B, N)` bool -> `(B, N)` index into (query, negative 1, …, negative N)."""
    index = torch.arange(1, present.shape[1] + 1, device=present.device) * present
    if compare_to == "query":
        return torch.zeros_like(index)
    if compare_to == "previous":
        nearest = index.cummax(dim=1).values
    else:
        first = torch.where(present, index, present.shape[1] + 1).min(dim=1, keepdim=True).values
        nearest = torch.where(index.cummax(dim=1).values > 0, first, 0)
    # Each negative is compared with an earlier one: shift by one place, with the query (index 0) in the first.
    return torch.nn.functional.pad(nearest, (1, 0))[:, :-1]
