"""The model of a finished run of a study, for scripts that evaluate it with other settings."""

from __future__ import annotations

from pathlib import Path

from transformers import PrinterCallback

from shine_hf.training.recipe import parse_recipe
from shine_hf.training.run import build_trainer

from .spec import RECIPE_FILE, read_queries


class TrainedRun:
    """The model of a finished run, to evaluate it with other saliency weights."""

    def __init__(self, folder: Path, scratch: Path):
        recipe = ["--config", str(folder / RECIPE_FILE), "--model", str(folder), "--output_dir", str(scratch)]
        self.trainer, self.splits = build_trainer(parse_recipe([*recipe, "--do_train", "false"]))
        self.trainer.remove_callback(PrinterCallback)
        self.scratch = scratch

    def evaluate(self, split: str, weight: float) -> dict[str, float]:
        """Return the metrics of a split as `{split}_{metric}`. Write the results per query to `queries/{split}.jsonl` in the scratch folder."""
        self.trainer.model.config.saliency_weight = weight
        metrics = self.trainer.evaluate(self.splits[split], metric_key_prefix=split)
        self.trainer.save_query_results(split, self.splits[split])
        return metrics

    def queries(self, split: str) -> list[dict]:
        """Return the results per query of the last evaluation of a split."""
        return read_queries(self.scratch, split)
