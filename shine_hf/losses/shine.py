"""The ranking losses of SHINE together, as one module that any model with saliency scores can be trained with."""

import torch
from torch import nn

from .coarse_ranking import coarse_ranking_loss
from .fine_ranking import fine_ranking_loss


class ShineLoss(nn.Module):
    r"""Coarse and fine ranking losses of SHINE (arXiv 2407.05118), to be added to the base loss of a model.

    Args:
        coarse_weight, fine_weight (`float`): Weights of the two losses; a loss with weight 0 is not computed.
        intra_margin, inter_margin (`float`), top_k_divisor (`int`): See [`coarse_ranking_loss`].
        fine_margins (`tuple` of float): Margins of the hard negatives from level 1 on, and last that of the irrelevant query.
            Where a batch has fewer levels, the first margins are used.
        compare_to (`str`): See [`fine_ranking_loss`].

    Inputs:
        | argument                   | shape       | meaning                                                        |
        |----------------------------|-------------|----------------------------------------------------------------|
        | `saliency_scores`          | `(B, T)`    | scores under the query                                         |
        | `negative_saliency_scores` | `(B, N, T)` | scores under hard negatives 1 to N - 1 and the irrelevant query |
        | `saliency_labels`          | `(B, T)`    | 0/1, soft or graded                                            |
        | `video_attention_mask`     | `(B, T)`    | 1 for valid clips                                              |
        | `negative_mask`            | `(B, N)`    | which negatives exist (all, where it is left out)              |

    Returns:
        `(total, terms)`: the weighted sum, and `loss_coarse_intra`, `loss_coarse_inter` and `loss_fine` unweighted. The fine loss
        needs hard negatives: with the irrelevant query alone (N = 1) it is left out.
    """

    def __init__(
        self,
        coarse_weight: float = 1.0,
        fine_weight: float = 1.0,
        intra_margin: float = 1.0,
        inter_margin: float = 2.0,
        top_k_divisor: int = 8,
        fine_margins: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25),
        compare_to: str = "previous",
    ):
        super().__init__()
        self.coarse_weight, self.fine_weight = coarse_weight, fine_weight
        self.intra_margin, self.inter_margin, self.top_k_divisor = intra_margin, inter_margin, top_k_divisor
        self.fine_margins, self.compare_to = tuple(fine_margins), compare_to

    def forward(
        self,
        saliency_scores: torch.Tensor,
        negative_saliency_scores: torch.Tensor,
        saliency_labels: torch.Tensor,
        video_attention_mask: torch.Tensor,
        negative_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms = {}
        total = saliency_scores.new_zeros((), dtype=torch.float32)
        if self.coarse_weight:
            coarse = coarse_ranking_loss(
                saliency_scores,
                negative_saliency_scores[:, -1],
                saliency_labels,
                video_attention_mask,
                intra_margin=self.intra_margin,
                inter_margin=self.inter_margin,
                top_k_divisor=self.top_k_divisor,
                irrelevant_mask=None if negative_mask is None else negative_mask[:, -1],
            )
            terms |= {"loss_coarse_intra": coarse.intra, "loss_coarse_inter": coarse.inter}
            total = total + self.coarse_weight * (coarse.intra + coarse.inter)
        levels = negative_saliency_scores.shape[1] - 1
        if self.fine_weight and levels:
            terms["loss_fine"] = fine_ranking_loss(
                saliency_scores,
                negative_saliency_scores,
                saliency_labels,
                video_attention_mask,
                margins=self._margins(levels),
                compare_to=self.compare_to,
                negative_mask=negative_mask,
            )
            total = total + self.fine_weight * terms["loss_fine"]
        return total, terms

    def _margins(self, levels: int) -> tuple[float, ...]:
        """Margins for `levels` hard negatives and the irrelevant query."""
        if levels >= len(self.fine_margins):
            raise ValueError(
                f"the batch has {levels} hard negatives, but fine_margins {self.fine_margins} are for "
                f"{len(self.fine_margins) - 1} at most (the last is that of the irrelevant query)"
            )
        return (*self.fine_margins[:levels], self.fine_margins[-1])
