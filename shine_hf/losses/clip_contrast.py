"""Contrast between the query and its negatives on the same clip. Not from the paper."""

import torch

from ..modeling.moment_retrieval_loss import is_inside, masked_mean


def clip_contrast_sums(
    saliency_scores: torch.Tensor,
    negative_saliency_scores: torch.Tensor,
    saliency_labels: torch.Tensor,
    video_attention_mask: torch.Tensor,
    negative_mask: torch.Tensor,
    negative_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Return the cross-entropy of classifying with which sentence, the query or one of its negatives, a clip inside the moment was encoded.

    $$ L = \operatorname{mean}_{t \in \text{moment}} -\log \frac{e^{s_t}}{e^{s_t} + \sum_n w_n e^{s_{n,t}}} $$

    The loss only depends on differences between sentences. Therefore, a common offset of the scores does not change its gradient, and the
    negatives get as much of it as the query. There are no margins, and no order among the negatives.

    Args:
        saliency_scores (`(B, T)`), negative_saliency_scores (`(B, N, T)`): Scores under the query and under its negatives.
        saliency_labels (`(B, T)`): 0/1, soft or graded. A clip is inside if its label is at least 0.5.
        video_attention_mask (`(B, T)`): 1 for valid clips.
        negative_mask (`(B, N)`): Which negatives exist.
        negative_weights (`(B, N)`, *optional*): \\(w_n\\), 0 to 1; by default 1.

    Returns:
        One value per sample, `(B,)`; 0 for a sample without a negative or without a clip inside.
    """
    weights = negative_mask.float() if negative_weights is None else negative_mask * negative_weights.float()
    # A weight of 0 becomes a score of minus infinity, whose exponential is 0.
    negatives = negative_saliency_scores.float() + weights.log().unsqueeze(-1)
    scores = saliency_scores.float().unsqueeze(1)
    cross_entropy = torch.cat([scores, negatives], dim=1).logsumexp(dim=1) - scores.squeeze(1)
    return masked_mean(cross_entropy, is_inside(saliency_labels) & video_attention_mask.bool(), 1)
