"""Measure the gradients of the fine ranking loss for the trained models of a study, on its training queries.

    python -m benchmarks.study.fine_gradients NAME [--variants …] [--queries 1600]

For each variant (first finished seed), prints the mean saliency inside the moment under the query, each level of its negatives and the irrelevant query. For each distance of the
loss, also prints the mean hinges, the gradient with respect to each of these scores, and the share of queries whose negative misses its margin but has no gradient, because in a chain its own
hinge and that of the next level cancel. If the negatives get almost no gradient, the model does not learn from them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from shine_hf.losses.fine_ranking import DISTANCES, fine_ranking_hinges
from shine_hf.modeling.moment_retrieval_loss import is_inside, masked_mean

from .spec import read_study
from .trained_run import TrainedRun


def measure(run: TrainedRun, queries: int) -> dict[str, list[float]]:
    """Return means over the queries: `saliency` (query, levels, irrelevant), and for each distance its `hinges`, its `gradient` (in the same order as the saliency), and the share of queries whose hinges are `cancelled`."""
    trainer = run.trainer
    trainer.model.eval()
    found = defaultdict(list)
    rows = run.splits["train"]
    margins = tuple(trainer.args.fine_margins)
    for inputs in trainer.get_eval_dataloader(rows.select(range(min(queries, len(rows))))):
        with torch.no_grad():
            outputs = trainer.model(**{key: value for key, value in inputs.items() if key != "labels"})
        labels, valid = inputs["labels"]["saliency"], inputs["video_attention_mask"].bool()
        scores, negatives = (outputs[name].float() for name in ("saliency_scores", "negative_saliency_scores"))
        inside = is_inside(labels) & valid
        under_all = torch.cat([scores.unsqueeze(1), negatives], dim=1)
        found["saliency"].append(masked_mean(under_all, inside.unsqueeze(1), 2))
        found["outside"].append(masked_mean(scores, ~inside & valid, 1).unsqueeze(1))
        present = inputs["negative_text_attention_mask"].any(dim=-1)
        for distance in DISTANCES:
            leaves = [scores.clone().requires_grad_(), negatives.clone().requires_grad_()]
            hinges = fine_ranking_hinges(*leaves, labels, valid, present, margins=margins, compare_to=trainer.args.compare_to, distance=distance)  # fmt: skip
            found[f"{distance} hinges"].append(hinges.detach())
            on_query, on_negatives = torch.autograd.grad(hinges.sum(), leaves)
            gradient = torch.cat([on_query.unsqueeze(1), on_negatives], dim=1).abs().sum(dim=2)
            found[f"{distance} gradient"].append(gradient)
            cancelled = (hinges > 0) & (gradient[:, 1:] == 0)
            found[f"{distance} cancelled"].append(cancelled.float())
    return {name: torch.cat(parts).mean(dim=0).tolist() for name, parts in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="study with finished runs")
    parser.add_argument("--variants", nargs="+", help="measure only these")
    parser.add_argument(
        "--queries", type=int, default=1600, help="number of queries, from the start of the training split"
    )
    args = parser.parse_args(argv)
    study = read_study(args.name)
    seeds = {}
    for run in study.trained_runs():
        seeds.setdefault(run.variant, run.seed)
    for variant in args.variants or seeds:
        with tempfile.TemporaryDirectory() as scratch:
            means = measure(TrainedRun(study.run_folder(variant, seeds[variant]), Path(scratch)), args.queries)
        print(f"{variant}, seed {seeds[variant]}:")
        for name, values in means.items():
            print(f"  {name:<32}" + " ".join(f"{value:8.3f}" for value in values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
