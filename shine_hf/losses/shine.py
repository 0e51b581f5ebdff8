"""The ranking losses of SHINE as one `nn.Module`, for any model that returns saliency scores."""

import torch
from torch import nn

from ..modeling.moment_retrieval_loss import mean_terms
from .clip_contrast import clip_contrast_sums
from .coarse_ranking import coarse_ranking_hinges, coarse_ranking_rows
from .decoder_negatives import decoder_negative_hinges
from .fine_ranking import fine_ranking_hinges, fine_ranking_rows


class ShineLoss(nn.Module):
    r"""The coarse and fine ranking losses of SHINE (arXiv 2407.05118), which are added to the base loss of a model.

    Args:
        coarse_weight, fine_weight (`float`): Weights of the two losses; a loss with weight 0 is not computed.
        intra_margin, inter_margin (`float`), top_k_divisor (`int`): See [`coarse_ranking_loss`].
        fine_margins (`tuple` of float): Margins of the hard negatives from level 1 up, and last the margin of the irrelevant query.
            For a batch with fewer levels, the first margins are used.
        compare_to (`str`), fine_distance (`str`): `compare_to` and `distance` of [`fine_ranking_loss`].
        decoder_negative_weight (`float`), decoder_negative_form (`str`), decoder_negative_margin (`float`): Weight, `form` and `margin` of
            [`decoder_negative_hinges`], not from the paper. With K margins, the loss of level n is multiplied by n / K, and the loss of the
            irrelevant query by 1: the nearer a negative is to the query, the more likely it is true somewhere in the video.
        clip_contrast_weight (`float`): Weight of [`clip_contrast_sums`], not from the paper.

    Inputs:
        | argument                   | shape          | meaning                                                         |
        |----------------------------|----------------|-----------------------------------------------------------------|
        | `saliency_scores`          | `(B, T)`       | scores under the query                                          |
        | `negative_saliency_scores` | `(B, N, T)`    | scores under hard negatives 1 to N - 1 and the irrelevant query |
        | `saliency_labels`          | `(B, T)`       | 0/1, soft or graded                                             |
        | `video_attention_mask`     | `(B, T)`       | 1 for valid clips                                               |
        | `negative_mask`            | `(B, N)`       | which negatives exist (default: all)                            |
        | `negative_weights`         | `(B, N)`       | how much they count, except in the coarse loss (default: 1)     |
        | `logits`                   | `(B, Q, 2)`    | class scores under the query, for `decoder_negative_weight`     |
        | `negative_logits`          | `(B, N, Q, 2)` | class scores under the negatives, likewise                      |
        | `matched_candidates`       | `(B, Q)`       | which candidates are matched with a window, likewise            |

    Returns:
        `(total, terms)`: the weighted sum, and `loss_coarse_intra`, `loss_coarse_inter`, `loss_fine`, `loss_decoder_negative` and
        `loss_clip_contrast` unweighted, without the terms that are off. `negative_weights` multiply the hinges of their negatives, but do not
        change the number of hinges in the average, so low weights reduce the loss. The fine loss needs hard negatives: samples that only have
        the irrelevant query do not contribute, and with N = 1 there is no `loss_fine`.

    For a batch that is split over accumulation steps or processes, sum up [`hinges`], divide by the sum of [`counts`] over all parts, and
    combine the terms with [`weigh`]. Averaging the means of the parts would give a different result if some samples lack a term.
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
        fine_distance: str = "cross_entropy",
        decoder_negative_weight: float = 0.0,
        decoder_negative_form: str = "background",
        decoder_negative_margin: float = 1.0,
        clip_contrast_weight: float = 0.0,
    ):
        super().__init__()
        self.coarse_weight, self.fine_weight = coarse_weight, fine_weight
        self.intra_margin, self.inter_margin, self.top_k_divisor = intra_margin, inter_margin, top_k_divisor
        self.fine_margins, self.compare_to = tuple(fine_margins), compare_to
        self.fine_distance = fine_distance
        self.decoder_negative_weight, self.decoder_negative_form = decoder_negative_weight, decoder_negative_form
        self.decoder_negative_margin = decoder_negative_margin
        self.clip_contrast_weight = clip_contrast_weight

    def forward(
        self,
        saliency_scores: torch.Tensor,
        negative_saliency_scores: torch.Tensor,
        saliency_labels: torch.Tensor,
        video_attention_mask: torch.Tensor,
        negative_mask: torch.Tensor | None = None,
        **more: torch.Tensor | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if negative_mask is None:
            negative_mask = torch.ones_like(negative_saliency_scores[..., 0], dtype=torch.bool)
        masks = (saliency_labels, video_attention_mask, negative_mask)
        counts = self.counts(*masks)
        hinges = self.hinges(saliency_scores, negative_saliency_scores, *masks, **more)
        terms = mean_terms({name: rows.masked_fill(counts[name] == 0, 0) for name, rows in hinges.items()}, counts)
        if negative_saliency_scores.shape[1] == 1:
            terms.pop("loss_fine", None)
        total, terms = self.weigh(terms)
        return saliency_scores.new_zeros((), dtype=torch.float32) + total, terms

    def counts(
        self, saliency_labels: torch.Tensor, video_attention_mask: torch.Tensor, negative_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return which hinges of each term a sample has: 0 or 1, `(B, K)` float.

        K is 1, except for `loss_fine` and `loss_decoder_negative`, where it is the number of margins, even if the batch has fewer levels.
        """
        counts = {}
        if self.coarse_weight:
            rows = coarse_ranking_rows(saliency_labels, video_attention_mask, negative_mask[:, -1])
            counts |= {"loss_coarse_intra": rows.intra.unsqueeze(1), "loss_coarse_inter": rows.inter.unsqueeze(1)}
        if self.fine_weight:
            ranked = negative_mask.bool() & negative_mask[:, :-1].any(dim=1, keepdim=True)
            counts["loss_fine"] = self._by_margin(fine_ranking_rows(saliency_labels, video_attention_mask, ranked))
        if self.decoder_negative_weight or self.clip_contrast_weight:
            rows = fine_ranking_rows(saliency_labels, video_attention_mask, negative_mask)
            if self.decoder_negative_weight:
                counts["loss_decoder_negative"] = self._by_margin(rows)
            if self.clip_contrast_weight:
                counts["loss_clip_contrast"] = rows.any(dim=1, keepdim=True)
        return {name: count.float() for name, count in counts.items()}

    def hinges(
        self,
        saliency_scores: torch.Tensor,
        negative_saliency_scores: torch.Tensor,
        saliency_labels: torch.Tensor,
        video_attention_mask: torch.Tensor,
        negative_mask: torch.Tensor,
        *,
        negative_weights: torch.Tensor | None = None,
        logits: torch.Tensor | None = None,
        negative_logits: torch.Tensor | None = None,
        matched_candidates: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the hinges of each sample, in the shapes of [`counts`]. Values with a count of 0 are arbitrary.

        Raises:
            ValueError: if the batch has more levels than there are margins, or class scores are missing.
        """
        hinges = {}
        weigh = (lambda values: values) if negative_weights is None else negative_weights.mul
        if self.coarse_weight:
            intra, inter = coarse_ranking_hinges(
                saliency_scores,
                negative_saliency_scores[:, -1],
                saliency_labels,
                video_attention_mask,
                intra_margin=self.intra_margin,
                inter_margin=self.inter_margin,
                top_k_divisor=self.top_k_divisor,
            )
            hinges |= {"loss_coarse_intra": intra.unsqueeze(1), "loss_coarse_inter": inter.unsqueeze(1)}
        if self.fine_weight:
            fine = fine_ranking_hinges(
                saliency_scores,
                negative_saliency_scores,
                saliency_labels,
                video_attention_mask,
                negative_mask,
                margins=self._select_levels(self.fine_margins, negative_saliency_scores.shape[1] - 1),
                compare_to=self.compare_to,
                distance=self.fine_distance,
            )
            hinges["loss_fine"] = self._by_margin(weigh(fine))
        if self.decoder_negative_weight:
            decoder = self._decoder_negative_hinges(logits, negative_logits, matched_candidates)
            hinges["loss_decoder_negative"] = self._by_margin(weigh(decoder))
        if self.clip_contrast_weight:
            contrast = clip_contrast_sums(
                saliency_scores,
                negative_saliency_scores,
                saliency_labels,
                video_attention_mask,
                negative_mask,
                negative_weights,
            )
            hinges["loss_clip_contrast"] = contrast.unsqueeze(1)
        return hinges

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term."""
        return {
            "loss_coarse_intra": self.coarse_weight,
            "loss_coarse_inter": self.coarse_weight,
            "loss_fine": self.fine_weight,
            "loss_decoder_negative": self.decoder_negative_weight,
            "loss_clip_contrast": self.clip_contrast_weight,
        }

    def weigh(
        self, terms: dict[str, torch.Tensor], between_queries: float = 1.0
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weighted sum of terms `(K,)`, and each term as a scalar, unweighted.

        Args:
            terms: Term -> its mean hinges, `(K,)`.
            between_queries: Multiplies the weights of all terms except the intra one, which compares clips under the same query.
        """
        terms = {name: values.sum() for name, values in terms.items()}
        total = sum(
            self.weights[name] * (1.0 if name == "loss_coarse_intra" else between_queries) * value
            for name, value in terms.items()
        )
        return total, terms

    def _decoder_negative_hinges(
        self, logits: torch.Tensor | None, negative_logits: torch.Tensor | None, matched: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the hinges of [`decoder_negative_hinges`] times the weights of the levels, `(B, N)`."""
        if logits is None or negative_logits is None or (matched is None and self.decoder_negative_form == "ranking"):
            raise ValueError(
                "decoder_negative_weight needs a model that returns logits and negative_logits, and for the ranking form also "
                "matched_candidates (or set it to 0)"
            )
        hinges = decoder_negative_hinges(
            logits, negative_logits, matched, form=self.decoder_negative_form, margin=self.decoder_negative_margin
        )
        shares = tuple((index + 1) / len(self.fine_margins) for index in range(len(self.fine_margins)))
        shares = self._select_levels(shares, hinges.shape[1] - 1)
        # Multiply by Python numbers: a tensor of them would have to be copied to the device.
        return torch.stack([share * hinges[:, index] for index, share in enumerate(shares)], dim=1)

    def _select_levels(self, by_margin: tuple[float, ...], levels: int) -> tuple[float, ...]:
        """Select the values for `levels` hard negatives and the irrelevant query from one value per margin.

        Raises:
            ValueError: if there are more levels than margins.
        """
        if levels >= len(self.fine_margins):
            raise ValueError(
                f"the batch has {levels} hard negatives, but fine_margins {self.fine_margins} are for "
                f"{len(self.fine_margins) - 1} at most (the last margin is for the irrelevant query)"
            )
        return (*by_margin[:levels], by_margin[-1])

    def _by_margin(self, values: torch.Tensor) -> torch.Tensor:
        """Insert zeros for missing levels before the irrelevant query: `(B, N)` -> `(B, margins)`."""
        missing = len(self.fine_margins) - values.shape[1]
        return torch.cat([nn.functional.pad(values[:, :-1], (0, missing)), values[:, -1:]], dim=1)
