"""Space for the metric: takes two jsonl files, and shows the tables and the official JSON. Uploads are deleted after an hour."""

import json
from pathlib import Path

import gradio as gr

from shine_hf.cli.evaluate import format_metrics
from shine_hf.metrics import evaluate_submission, official_layout, read_rows


def score(submission: str | None, ground_truth: str | None) -> tuple[str, str]:
    """Return the tables and the JSON, as text, for the paths of two jsonl files."""
    if not submission or not ground_truth:
        raise gr.Error("Choose both files first.")
    try:
        metrics = evaluate_submission(read_rows(submission), read_rows(ground_truth))
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error
    return format_metrics(metrics), json.dumps(official_layout(metrics), indent=2)


def build_app() -> gr.Blocks:
    """Build the page."""
    description = (Path(__file__).parent / "README.md").read_text(encoding="utf-8").split("---", 2)[2]
    with gr.Blocks(title="Moment retrieval metric", delete_cache=(600, 3600)) as app:
        gr.Markdown("# Score a moment retrieval submission")
        with gr.Row():
            submission = gr.File(label="Submission (.jsonl)", file_types=[".jsonl", ".gz"])
            ground_truth = gr.File(label="Ground truth (.jsonl)", file_types=[".jsonl", ".gz"])
        button = gr.Button("Score", variant="primary")
        tables = gr.Code(label="Metrics in percent, by length of the window", language=None, interactive=False)
        output = gr.Code(label="All metrics, as in the official JSON", language="json", interactive=False)
        button.click(score, [submission, ground_truth], [tables, output], api_name="score")
        with gr.Accordion("About this metric", open=False):
            gr.Markdown(description)
    return app


if __name__ == "__main__":
    build_app().launch()
