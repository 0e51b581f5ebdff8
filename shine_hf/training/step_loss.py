"""The loss of a training step over its complete batch, however the batch is split.

A loss term is the sum over all rows divided by the count over all rows. Sums need predictions, but counts only need labels, so the counts of an
entire step are known before its first forward pass. Averaging the means of the parts would give a different result if some rows lack a term.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ..losses import ShineLoss

Terms = dict[str, torch.Tensor]

LOSS = "loss"
"""Name of the loss of a model without separate terms."""
ROWS = "rows"
"""Name of the number of rows, by which terms without their own count are divided."""


class StepLoss:
    """The base loss of a model and the SHINE losses, as sums and counts per row.

    Args:
        model: Returns a dict with `saliency_scores (B, T)` and `negative_saliency_scores (B, N, T)`, and `loss` if it has a base loss. If it
            has the methods `loss_counts` and `weigh_losses`, it also returns `loss_sums`. Hard negatives for the decoder need
            `logits (B, Q, 2)`, `negative_logits (B, N, Q, 2)` and, for the ranking form, `matched_candidates (B, Q)`.
        shine_loss: The ranking losses; None for the base loss only.
    """

    def __init__(self, model: nn.Module, shine_loss: ShineLoss | None):
        self.model, self.shine_loss = model, shine_loss

    def forward(self, model: nn.Module, inputs: Mapping) -> Mapping:
        """Run the model, which may be wrapped, on a batch from the collator."""
        # The qids are only for messages. As strings, they would make a compiled model recompile for each batch.
        labels = {name: value for name, value in inputs["labels"].items() if name != "qids"}
        # The loss is reduced later, once for the entire step.
        options = {"reduce_loss": False} if hasattr(self.model, "loss_counts") else {}
        if options and self.shine_loss is not None and self.shine_loss.decoder_negative_weight:
            options["decode_negatives"] = True
        return model(**{**inputs, "labels": labels}, **options)

    def counts(self, inputs: Mapping, counted: torch.Tensor | None = None) -> Terms:
        """Return the number of elements in each row over which each term is averaged, `(B, K)`. [`ROWS`] is for terms without their own count.

        Args:
            inputs: A batch from the collator.
            counted (`(B,)` bool): Which rows count; None for all.
        """
        video_mask = inputs["video_attention_mask"]
        counts = {ROWS: torch.ones(len(video_mask), 1, device=video_mask.device)}
        if hasattr(self.model, "loss_counts"):
            counts |= self.model.loss_counts(**inputs)
        if self.shine_loss is not None:
            counts |= self.shine_loss.counts(*_saliency_masks(inputs))
        return counts if counted is None else {name: rows * counted.unsqueeze(1) for name, rows in counts.items()}

    def sums(self, outputs: Mapping, inputs: Mapping, counts: Terms) -> Terms:
        """Return the sum of each term over the rows that count, `(K,)`.

        Args:
            outputs: Result of [`forward`].
            inputs: A batch from the collator.
            counts: Result of [`counts`].

        Raises:
            ValueError: if the model returns no loss, or no scores for the ranking losses.
        """
        sums = dict(outputs.get("loss_sums") or {})
        if not sums and outputs.get("loss") is not None:
            # The model only returns means over its batch, so each row gets the mean.
            means = {LOSS: outputs["loss"], **(outputs.get("loss_dict") or {})}
            sums = {name: value.expand(len(outputs["saliency_scores"]), 1) for name, value in means.items()}
        if self.shine_loss is not None:
            negatives = outputs.get("negative_saliency_scores")
            if negatives is None:
                raise ValueError(
                    f"{type(self.model).__name__} returned no negative_saliency_scores: the SHINE losses need the scores under the "
                    "negatives of the batch (or set coarse_weight and fine_weight to 0)"
                )
            sums |= self.shine_loss.hinges(
                outputs["saliency_scores"],
                negatives,
                *_saliency_masks(inputs),
                negative_weights=inputs["labels"].get("negative_weights"),
                **{name: outputs.get(name) for name in ("logits", "negative_logits", "matched_candidates")},
            )
        if not sums:
            raise ValueError(f"{type(self.model).__name__} returned no loss, and the SHINE losses are off")
        return {
            name: rows.masked_fill(counts.get(name, counts[ROWS]) == 0, 0).sum(dim=0) for name, rows in sums.items()
        }

    def weigh(self, terms: Terms, between_queries: float = 1.0) -> tuple[torch.Tensor, Terms]:
        """Return the loss for terms `(K,)`, and each term as a scalar. For `between_queries`, see [`ShineLoss.weigh`]."""
        weights = {} if self.shine_loss is None else self.shine_loss.weights
        ranking = {name: value for name, value in terms.items() if name in weights}
        base = {name: value for name, value in terms.items() if name not in ranking}
        if hasattr(self.model, "weigh_losses"):
            loss, scalars = self.model.weigh_losses(base)
        else:
            scalars = {name: value.sum() for name, value in base.items()}
            loss = scalars.pop(LOSS, 0.0)
        if ranking:
            ranking_loss, ranking = self.shine_loss.weigh(ranking, between_queries)
            loss = loss + ranking_loss
        return loss, scalars | ranking


def totals(parts: Iterable[Terms]) -> Terms:
    """Return the totals `(K,)` of the counts `(B, K)` over all rows of several batches."""
    total: Terms = defaultdict(float)
    for part in parts:
        for name, rows in part.items():
            total[name] = total[name] + rows.sum(dim=0)
    return dict(total)


def divide(sums: Terms, counts: Terms) -> Terms:
    """Divide sums `(K,)` by counts `(K,)`. A term without its own count is averaged over the rows."""
    return {name: total / counts.get(name, counts[ROWS]) for name, total in sums.items()}


def _saliency_masks(inputs: Mapping) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what the SHINE losses need from a batch: labels `(B, T)`, valid clips `(B, T)`, and which negatives exist `(B, N)`."""
    negatives = inputs["negative_text_attention_mask"].any(dim=-1)
    return inputs["labels"]["saliency"], inputs["video_attention_mask"], negatives
