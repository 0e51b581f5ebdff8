"""The queries that the demo shows, with the results of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from ...inference.retriever import MomentRetriever, RetrievalResult
from ...metrics.moment_retrieval import temporal_iou

HIT_IOU = 0.5


@dataclass
class Example:
    """A query for a video that was not used for training.

    Args:
        query: The sentence.
        negative_queries: Its hard negatives, from near to far.
        video: The file.
        windows: Annotated `[start, end]` in seconds.
        results: Model -> its result for the query.
        others: Model -> its results for the negatives.
    """

    query: str
    negative_queries: list[str]
    video: Path
    windows: list[list[float]]
    results: dict[str, RetrievalResult] = field(default_factory=dict)
    others: dict[str, list[RetrievalResult]] = field(default_factory=dict)

    def iou(self, model: str) -> float:
        """Return the IoU of the best moment with the closest annotated window."""
        best = self.results[model].moments[0]
        return float(temporal_iou(np.array([best.start, best.end]), np.array(self.windows, dtype=float)).max())

    def is_hit(self, model: str) -> bool:
        """Return whether that IoU is at least `HIT_IOU`."""
        return self.iou(model) >= HIT_IOU


def find_examples(rows: Sequence[Mapping], videos: Path, models: Mapping[str, str], count: int) -> list[Example]:
    """Run models on rows that are evenly spaced over a split, whatever the results are.

    Args:
        rows: Rows of the split.
        videos: Folder of the video files.
        models: Title -> model folder.
        count: Number of examples; fewer if the split has fewer rows.
    """
    step = max(1, len(rows) // count)
    examples = [
        Example(row["query"], list(row["negative_queries"]), videos / f"{row['vid']}.mp4", row["relevant_windows"])
        for row in rows[::step][:count]
    ]
    for title, folder in models.items():
        retriever = MomentRetriever.from_pretrained(folder)
        for example in examples:
            queries = [example.query, *example.negative_queries]
            found = cast(list[RetrievalResult], retriever.find(str(example.video), queries, top_k=3))
            example.results[title], *example.others[title] = found
    return examples
