"""Measure how much the saliency order of trained models depends on the video, without retraining.

    python -m benchmarks.study.other_videos NAME [--variants …] [--results DIR]

Each finished run is evaluated with the clips and windows of another video of the split, under the same queries and hard negatives. A model that knows from their words which sentence is a
query and which a negative ranks them in the same order in every video. So how often the query is above level 1 in the right video, minus how often in another one, is what the model
sees in the video. The results are kept in the folder of each run: after a stop, the same command continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datasets import Dataset

from .swaps import Swap, others_of, run_swap
from .trained_run import TrainedRun

OTHER_VIDEO = "another video"


def with_other_video(rows: Dataset, seed: int) -> Dataset:
    """Return the rows, each with the video and the windows of a random row of another video. There are none if all rows are of one video."""
    of_text = [name for name in rows.column_names if name in ("qid", "query") or name.startswith("negative_")]
    videos = rows.remove_columns(of_text).select(others_of(rows["vid"], seed))
    changed = [{**row, **video} for row, video in zip(rows, videos)]
    return Dataset.from_list(changed, features=rows.features) if changed else rows.select([])


def evaluate_other(run: TrainedRun, split: str, seed: int) -> Iterator[tuple[str, list[dict]]]:
    """Yield the results of the rows in another video."""
    others = with_other_video(run.splits[split], seed)
    if len(others):
        run.evaluate(split, rows=others)
        yield OTHER_VIDEO, run.queries(split)


OTHER_VIDEOS = Swap(
    name="other_videos",
    title="in other videos",
    explanation="The trained models of the study, evaluated with the clips and windows of another video under the same queries and hard negatives. A model that ranks them by their words alone would gain 0.",
    metrics=("positive>level1",),
    inputs=(OTHER_VIDEO,),
    evaluate=evaluate_other,
)


def main(argv: Sequence[str] | None = None) -> int:
    return run_swap(OTHER_VIDEOS, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
