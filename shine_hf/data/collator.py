"""Collate rows of the data schema into a batch of model inputs and labels, including negatives."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ..modeling.processing_moment_retrieval import MomentRetrievalProcessor
from .negative_weights import negative_weight
from .targets import clip_windows, graded_saliency, margin_pairs, saliency_targets, span_targets

if TYPE_CHECKING:
    from ..features.base import FeatureStore

MAX_DRAWS = 64


@dataclasses.dataclass
class DataCollatorForMomentRetrieval:
    """Look up the features of each row and its negatives, prepare them with the processor, and compute the labels.

    All random draws depend only on (seed, epoch, qid), not on batch size, gradient accumulation, workers or processes.

    Args:
        processor (`MomentRetrievalProcessor`): Normalizes, truncates and pads features.
        video_features: `video_features[vid]` -> `(T, Dv)` array, e.g. a [`FeatureStore`].
        text_features: `text_features(query=…, qid=…, level=…)` -> `(L, Dt)` array, e.g. a [`TextFeatures`]; `level` is None for the
            query itself, else the level of its negative, counted from 1.
        query_pool (rows with `qid`, `vid`, `query`, *optional*): The training set, from which irrelevant queries are drawn.
        hard_negatives (`bool`): Whether to use the `negative_queries` of the rows.
        num_levels (`int`): How many levels of hard negatives to use, nearest first. Levels that a row lacks are masked.
        evaluated_levels (`int`, *optional*): How many levels to use for evaluation; by default `num_levels`.
        skip_flagged (`bool`): Leave out negatives that validation flagged (`negative_flags`) in training.
        doubtful_weight (`float`), weigh_changed_words (`bool`): Weights of hard negatives in training; see [`negative_weight`]. With the
            defaults, all negatives count equally and the labels have no `negative_weights`.
        irrelevant: `"random"` draws a query of another video from `query_pool`; `"in_batch"` draws it from the batch; `"roll"` always takes
            the query of the next row, as the authors' code does.
        soft_boundary_seconds (`float`): See [`saliency_targets`].
        draw_margin_pairs (`bool`): Draw clips for the saliency margin term.
        seed (`int`): Seed of all random draws.
        fixed_epoch (`int`, *optional*): Use this epoch for all draws instead of the one from `set_epoch`, for evaluation.

    Raises:
        ValueError: for an unknown `irrelevant`, `"random"` without a `query_pool`, or a `doubtful_weight` outside 0 to 1.
    """

    processor: MomentRetrievalProcessor
    video_features: FeatureStore | Mapping[str, np.ndarray]
    text_features: Callable[..., np.ndarray]
    query_pool: Sequence[Mapping] | None = None
    hard_negatives: bool = True
    num_levels: int = 3
    evaluated_levels: int | None = None
    skip_flagged: bool = False
    doubtful_weight: float = 1.0
    weigh_changed_words: bool = False
    irrelevant: Literal["random", "in_batch", "roll"] = "random"
    soft_boundary_seconds: float = 0.0
    draw_margin_pairs: bool = False
    seed: int = 0
    fixed_epoch: int | None = None

    def __post_init__(self):
        if self.irrelevant not in ("random", "in_batch", "roll"):
            raise ValueError(f'irrelevant must be "random", "in_batch" or "roll", got {self.irrelevant!r}')
        if self.irrelevant == "random" and self.query_pool is None:
            raise ValueError('irrelevant="random" draws from query_pool: pass the rows of the training set')
        if not 0 <= self.doubtful_weight <= 1:
            raise ValueError(f"doubtful_weight must be from 0 to 1, got {self.doubtful_weight}")
        # Strings in memory: random access to an Arrow table for each draw would be much slower.
        self._pool = [(row["vid"], row["query"], row["qid"]) for row in self.query_pool or ()]
        self.query_pool = None
        # In shared memory, so that persistent workers see changes of the epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that random draws depend on. The trainer calls this."""
        self._epoch.fill_(epoch)

    def for_evaluation(self) -> DataCollatorForMomentRetrieval:
        """Return a copy for evaluation: with fixed draws, without margin pairs, and with all hard negatives, flagged or not, weighted equally.

        So the order of the saliency is measured on the same sentences, regardless of how a model was trained.
        """
        copy = dataclasses.replace(
            self,
            query_pool=(),
            fixed_epoch=0,
            draw_margin_pairs=False,
            hard_negatives=True,
            num_levels=self.evaluated_levels or self.num_levels,
            skip_flagged=False,
            doubtful_weight=1.0,
            weigh_changed_words=False,
        )
        copy._pool = self._pool
        return copy

    def __call__(self, rows: Sequence[Mapping]) -> dict:
        """Collate a batch.

        Args:
            rows: Rows of the schema (see `shine_hf.schema`).

        Returns:
            The inputs of the models' `forward`, including `labels`. In addition to what the loss reads, `labels` contains the annotated
            `windows (B, W, 2)` in seconds (padded with -1) and `durations (B,)` for the metrics, and `qids`, a list of strings, for messages.
            If negatives are weighted, the ranking losses also read `negative_weights (B, N)`.
        """
        epoch = int(self._epoch) if self.fixed_epoch is None else self.fixed_epoch
        videos = [self.video_features[row["vid"]] for row in rows]
        texts = [self.text_features(query=row["query"], qid=row["qid"], level=None) for row in rows]
        hard_negatives = [self._hard_negatives(row) for row in rows]
        if all(features is None for row in hard_negatives for features in row):
            # No row has negatives, e.g. in a test split: do not encode padding.
            hard_negatives = [[]] * len(rows)
        negatives = [[*hard_negatives[index], self._irrelevant(index, rows, epoch)] for index in range(len(rows))]
        inputs = self.processor(videos, texts, negatives, names=[row["qid"] for row in rows])
        num_clips = inputs["video_attention_mask"].sum(dim=1).tolist()
        labels = self._labels(rows, num_clips, epoch)
        if self.doubtful_weight != 1 or self.weigh_changed_words:
            labels["negative_weights"] = self._negative_weights(rows, len(negatives[0]))
        return {**inputs, "labels": labels}

    def _hard_negatives(self, row: Mapping) -> list[np.ndarray | None]:
        if not self.hard_negatives:
            return []
        queries, flags = (row.get("negative_queries") or ())[: self.num_levels], row.get("negative_flags") or ()
        absent = [None] * (self.num_levels - len(queries))
        return [
            None
            if not query or (self.skip_flagged and level <= len(flags) and flags[level - 1])
            else self.text_features(query=query, qid=row["qid"], level=level)
            for level, query in enumerate(queries, start=1)
        ] + absent

    def _negative_weights(self, rows: Sequence[Mapping], negatives: int) -> torch.Tensor:
        """Return the weights of the hard negatives and, last, of the irrelevant query, `(B, negatives)`."""
        doubtful, by_words = self.doubtful_weight, self.weigh_changed_words
        levels = range(1, negatives)
        return torch.tensor([[*(negative_weight(row, n, doubtful, by_words) for n in levels), 1.0] for row in rows])

    def _irrelevant(self, index: int, rows: Sequence[Mapping], epoch: int) -> np.ndarray | None:
        """Return the features of a different query of a different video; None if no draw finds one.

        `irrelevant="roll"` skips these checks.
        """
        row = rows[index]
        if self.irrelevant == "roll":
            if len(rows) == 1:
                return None
            other = rows[(index + 1) % len(rows)]
            return self.text_features(query=other["query"], qid=other["qid"], level=None)
        pool = self._pool
        if self.irrelevant == "in_batch":
            pool = [(other["vid"], other["query"], other["qid"]) for other in rows]
        for draw in range(MAX_DRAWS):
            vid, query, qid = (
                pool[_random_bits(self.seed, epoch, row["qid"], draw) % len(pool)] if pool else (None,) * 3
            )
            if vid is not None and vid != row["vid"] and query != row["query"]:
                return self.text_features(query=query, qid=qid, level=None)
        return None

    def _labels(self, rows: Sequence[Mapping], num_clips: list[int], epoch: int) -> dict[str, torch.Tensor]:
        clip_length = self.processor.clip_length
        batch, longest = len(rows), max(num_clips)
        clipped = [clip_windows(row["relevant_windows"], n, clip_length) for row, n in zip(rows, num_clips)]
        labels = {
            "spans": torch.zeros(batch, max(1, *map(len, clipped)), 2),
            "span_mask": torch.zeros(batch, max(1, *map(len, clipped)), dtype=torch.bool),
            "saliency": torch.zeros(batch, longest),
            "windows": torch.full((batch, max(1, *(len(row["relevant_windows"]) for row in rows)), 2), -1.0),
            "durations": torch.tensor([float(row["duration"]) for row in rows]),
            "qids": [row["qid"] for row in rows],
        }
        pairs = []
        for index, (row, windows, n) in enumerate(zip(rows, clipped, num_clips)):
            labels["spans"][index, : len(windows)] = torch.from_numpy(span_targets(windows, n, clip_length))
            labels["span_mask"][index, : len(windows)] = True
            if row.get("saliency_scores"):
                saliency = graded_saliency(row["relevant_clip_ids"], row["saliency_scores"], n, clip_length)
            else:
                saliency = saliency_targets(windows, n, clip_length, self.soft_boundary_seconds)
            labels["saliency"][index, :n] = torch.from_numpy(saliency)
            if row["relevant_windows"]:
                labels["windows"][index, : len(row["relevant_windows"])] = torch.tensor(row["relevant_windows"])
            if self.draw_margin_pairs:
                rng = np.random.default_rng(_random_bits(self.seed, epoch, row["qid"], "pairs"))
                pairs.append(margin_pairs(saliency_targets(windows, n, clip_length) > 0, rng))
        if pairs:
            positive, negative = (torch.from_numpy(np.stack(clips)) for clips in zip(*pairs))
            labels |= {"positive_clips": positive, "negative_clips": negative}
        return labels


def _random_bits(*key) -> int:
    """Return 64 pseudorandom bits that depend only on the key."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest(), "little")
