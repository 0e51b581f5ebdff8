"""Measure how much the moments of trained models depend on the query, without retraining.

    python -m benchmarks.study.other_queries NAME [--variants …] [--results DIR]

Each finished run is evaluated with other queries than the right one: the hard negatives of the test queries, and the query of another video of the split. The windows stay those of
the right query. A model that only knows where moments tend to be, or finds any event, gets the same result with every query. So the result with the right query minus the result
with another one is what the model gains from the difference between these queries. The results are kept in the folder of each run: after a stop, the same command continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datasets import Dataset
from matplotlib.figure import Figure

from shine_hf.features.text import StoredText

from .figures import series_colors
from .spec import Study
from .swaps import RIGHT, Results, Swap, mean_over_rows, others_of, run_swap
from .trained_run import TrainedRun

LEVELS = 3
OTHER_VIDEO = "other video"
OTHERS = (*(f"level {level}" for level in range(1, LEVELS + 1)), OTHER_VIDEO)


def with_level(rows: Dataset, level: int) -> Dataset:
    """Return the rows that have a hard negative of a level, with this negative as their query."""
    negatives = [dict(enumerate(row["negative_queries"], start=1)).get(level) for row in rows]
    return _with_queries(rows, negatives)


def with_other_video(rows: Dataset, seed: int) -> Dataset:
    """Return the rows, each with the query of a random row of another video. There are none if all rows are of one video."""
    queries = rows["query"]
    return _with_queries(rows, [queries[other] for other in others_of(rows["vid"], seed)])


def _with_queries(rows: Dataset, queries: Sequence[str | None]) -> Dataset:
    """Return the rows that get a query, without negatives: their saliency is not needed here."""
    changed = [{**row, "query": query, "negative_queries": []} for row, query in zip(rows, queries) if query]
    # An empty list has no columns.
    return Dataset.from_list(changed, features=rows.features) if changed else rows.select([])


def evaluate_others(run: TrainedRun, split: str, seed: int) -> Iterator[tuple[str, list[dict]]]:
    """Yield for each kind of other query its name and the results of the rows.

    Raises:
        ValueError: if the text features come from a file, which has no features of other queries.
    """
    texts, rows = run.trainer.data_collator.text_features, run.splits[split]
    if isinstance(texts, StoredText):
        raise ValueError(f"{texts.public_spec} has features of the right queries only; use a text encoder")
    changed = [with_level(rows, level) for level in range(1, LEVELS + 1)]
    for name, others in zip(OTHERS, [*changed, with_other_video(rows, seed)]):
        if len(others):
            texts.prepare(others.select_columns(["qid", "vid", "query"]), progress=False)
            run.evaluate(split, rows=others)
            yield name, run.queries(split)


def other_queries_figure(study: Study, results: Results) -> Figure:
    """Draw the mIoU over the queries, from the right one to that of another video: a panel per split, a line per variant."""
    figure = Figure(figsize=(3.4 * len(study.splits), 3.4), layout="constrained")
    panels = figure.subplots(1, len(study.splits), sharey=True, squeeze=False)[0]
    variants = list(dict.fromkeys(variant for variant, _, _ in results))
    for axes, split in zip(panels, study.splits):
        for variant, color in zip(variants, series_colors(len(variants))):
            points = [
                (name, mean_over_rows(results[key], "mIoU"))
                for name in (RIGHT, *OTHERS)
                if (key := (variant, split, name)) in results
            ]
            axes.plot(*zip(*points), "o-", color=color, label=variant, linewidth=1.5, markersize=4)
        axes.set_title(split, fontsize=10)
        axes.tick_params(axis="x", labelrotation=30)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mIoU (%)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    return figure


OTHER_QUERIES = Swap(
    name="other_queries",
    title="with other queries",
    explanation="The trained models of the study, evaluated with hard negatives of the test queries (levels 1 to 3) and with the query of another video. The windows stay those of the right query. "
    "A model that does not read the query would gain 0.",
    metrics=("R1@0.5", "mIoU"),
    inputs=OTHERS,
    evaluate=evaluate_others,
    figure=other_queries_figure,
)


def main(argv: Sequence[str] | None = None) -> int:
    return run_swap(OTHER_QUERIES, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
