"""Leaderboard Space: shows the results that models on the Hub report for the benchmarks in their `.eval_results`.

SHINE_BENCHMARKS=shine/charades-cg-negatives python app.py
"""

import os

import gradio as gr
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from shine_hf.cards.eval_results import BENCHMARK_METRICS, task_id

BENCHMARKS = {
    "shine/charades-cg-negatives": ("test_trivial", "novel_composition", "novel_word"),
    "shine/activitynet-cg-negatives": ("test_trivial", "novel_composition", "novel_word"),
}
RANKED_BY = ("novel_composition", "R1@0.5")


def column(split: str, metric: str) -> str:
    return f"{split.replace('_', ' ')} {metric}"


def read_leaderboard(api: HfApi, dataset_id: str, splits) -> list[dict]:
    """Return one row per model and setting, best first.

    Raises:
        HfHubHTTPError: if the Hub cannot be read.
    """
    columns = {task_id(split, metric): column(split, metric) for split in splits for metric in BENCHMARK_METRICS}
    rows: dict[tuple[str, str], dict] = {}
    for model in api.list_models(filter=f"dataset:{dataset_id}", expand=["evalResults"]):
        for entry in model.eval_results or []:
            if entry.dataset_id == dataset_id and entry.task_id in columns:
                notes = entry.notes or ""
                row = rows.setdefault((model.id, notes), {"model": model.id, "notes": notes})
                row[columns[entry.task_id]] = entry.value
    ranked = column(*RANKED_BY)
    return sorted(rows.values(), key=lambda row: row.get(ranked, float("-inf")), reverse=True)


def as_table(rows: list[dict], splits) -> list[list]:
    """Return the cells of the table: rank, linked model, one figure per split and metric, notes."""
    names = [column(split, metric) for split in splits for metric in BENCHMARK_METRICS]
    return [
        [
            rank,
            f"[{row['model']}](https://huggingface.co/{row['model']})",
            *(row.get(name) for name in names),
            row["notes"],
        ]
        for rank, row in enumerate(rows, start=1)
    ]


def build_app(api: HfApi, benchmarks: dict) -> gr.Blocks:
    """Build the page, with a tab per benchmark that is reloaded on every visit."""
    with gr.Blocks(title="Compositional moment retrieval") as app:
        gr.Markdown(
            "# Compositional moment retrieval\n"
            "A model is trained on some combinations of words and has to find new ones in videos. Results are in percent, as the models report "
            f"them on the Hub, and ranked by {column(*RANKED_BY)}. Read the notes: results on simulated features cannot be compared with "
            "results on real videos."
        )
        status = gr.Markdown(visible=False)
        for dataset_id, splits in benchmarks.items():
            names = [column(split, metric) for split in splits for metric in BENCHMARK_METRICS]
            headers = ["#", "model", *names, "notes"]
            with gr.Tab(dataset_id):
                table = gr.Dataframe(
                    headers=headers,
                    datatype=["number", "markdown", *["number"] * len(names), "str"],
                    interactive=False,
                )

            def refresh(dataset_id=dataset_id, splits=splits):
                try:
                    rows = read_leaderboard(api, dataset_id, splits)
                except (HfHubHTTPError, OSError) as error:
                    return [], gr.Markdown(
                        f"The Hub could not be read: {type(error).__name__}. Try again later.", visible=True
                    )
                message = "" if rows else "No model has reported results yet."
                return as_table(rows, splits), gr.Markdown(message, visible=bool(message))

            app.load(refresh, outputs=[table, status], api_name=f"leaderboard_{list(benchmarks).index(dataset_id)}")
    return app


def main() -> None:
    chosen = [name for name in os.environ.get("SHINE_BENCHMARKS", "").split(",") if name] or list(BENCHMARKS)
    splits = next(iter(BENCHMARKS.values()))
    build_app(HfApi(), {name: BENCHMARKS.get(name, splits) for name in chosen}).launch()


if __name__ == "__main__":
    main()
