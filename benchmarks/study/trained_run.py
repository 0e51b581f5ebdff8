"""The model of a finished run of a study, for scripts that evaluate it in other ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PrinterCallback

from shine_hf.training.recipe import parse_recipe
from shine_hf.training.run import build_trainer

from .spec import RECIPE_FILE, read_queries

if TYPE_CHECKING:
    from datasets import Dataset


class TrainedRun:
    """The model of a finished run, to evaluate it with other saliency weights or on other rows."""

    def __init__(self, folder: Path, scratch: Path):
        recipe = ["--config", str(folder / RECIPE_FILE), "--model", str(folder), "--output_dir", str(scratch)]
        self.trainer, self.splits = build_trainer(parse_recipe([*recipe, "--do_train", "false"]))
        self.trainer.remove_callback(PrinterCallback)
        self.scratch = scratch

    def evaluate(self, split: str, weight: float | None = None, rows: Dataset | None = None) -> dict[str, float]:
        """
        Return the metrics of a split as `{split}_{metric}`, and write the results per query to `queries/{split}.jsonl` in the scratch folder.

        Args:
            split: Name of the split.
            weight: Saliency weight; None leaves it unchanged.
            rows: Rows to use in place of those of the split.
        """
        if weight is not None:
            self.trainer.model.config.saliency_weight = weight
        rows = self.splits[split] if rows is None else rows
        metrics = self.trainer.evaluate(rows, metric_key_prefix=split)
        self.trainer.save_query_results(split, rows)
        return metrics

    def queries(self, split: str) -> list[dict]:
        """Return the results per query of the last evaluation of a split."""
        return read_queries(self.scratch, split)
