"""Mutation testing: inject one fault after another into the code, and find a test that fails, without ../shared.

    python -m benchmarks.mutations [--only PART] [--output FILE.md]

Each mutation replaces one piece of code in a copy of the repository. Its tests run until the first failure, which catches the mutation. A
mutation that nothing catches is a gap in the tests. torch and transformers are imported only once; each mutation runs in a fork.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
NETWORK = ("tests/golden/test_network.py", "tests/losses", "tests/modeling")
# Slow tests that check something else.
IGNORED = ("tests/modeling/test_export.py",)


class Mutation(NamedTuple):
    """A fault: in `file` (relative to shine_hf), `old` becomes `new`; `tests` should fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...] = NETWORK


LAYERS, ANCHORS = "modeling/layers.py", "(self.refinement_head(states) + inverse_sigmoid(anchors)).sigmoid()"
HEADS, LOSS = "modeling/modeling_moment_retrieval.py", "modeling/moment_retrieval_loss.py"
QD_DETR, MOMENT_DETR = "modeling/modeling_qd_detr.py", "modeling/modeling_moment_detr.py"
SPANS, PROCESSING = "modeling/spans.py", "modeling/processing_moment_retrieval.py"
HIERARCHY, INTERVALS = "metrics/saliency_hierarchy.py", "metrics/intervals.py"
STATISTICS, NAMES, CHECKPOINTS = "cards/dataset_statistics.py", "conversion/names.py", "conversion/checkpoints.py"
METRICS_TESTS = ("tests/metrics/test_saliency_hierarchy.py", "tests/metrics/test_intervals.py")
STATISTICS_TESTS = ("tests/cards/test_dataset_statistics.py",)
CONVERSION_TESTS = ("tests/conversion/test_names.py",)
COARSE, FINE, SHINE = "losses/coarse_ranking.py", "losses/fine_ranking.py", "losses/shine.py"

MUTATIONS = [
    # Attention, positions, masks.
    Mutation(LAYERS, "query + self.q_position_proj(position), key + key_position", "query + self.q_position_proj(position), key"),
    Mutation(LAYERS, "self.width_scale_head(states).sigmoid() / anchors[..., 1:]", "self.width_scale_head(states).sigmoid()"),
    Mutation(LAYERS, "self.width_scale_head(states).sigmoid() / anchors[..., 1:]", "self.width_scale_head(states).sigmoid() / anchors[..., :1]"),
    Mutation(LAYERS, "anchors = refined.detach()", "anchors = refined"),
    Mutation(LAYERS, "references.append(refined)", "references.append(refined.detach())"),
    Mutation(LAYERS, ANCHORS, "(self.refinement_head(states) - inverse_sigmoid(anchors)).sigmoid()"),
    Mutation(LAYERS, "scale = scale * self.content_scale_head(states)", "pass"),
    Mutation(LAYERS, "            if index:\n", "            if index > 1:\n"),
    Mutation(LAYERS, "is_first_layer=index == 0", "is_first_layer=True"),
    Mutation(LAYERS, "weights = query @ key.transpose(2, 3) * scaling", "weights = query @ key.transpose(2, 3)"),
    Mutation(LAYERS, "scaling=query.shape[-1] ** -0.5", "scaling=value.shape[-1] ** -0.5"),
    Mutation(LAYERS, "weights = weights + attention_mask", "weights = weights"),
    Mutation(LAYERS, "states.shape[1], self.num_heads, -1).transpose(1, 2)", "states.shape[1], -1, self.num_heads).permute(0, 3, 1, 2)"),
    Mutation(LAYERS, "masked_fill(~allowed,", "masked_fill(allowed,"),
    Mutation(LAYERS, "position = video_mask.to(torch.float32).cumsum(dim=1)", "position = video_mask.to(torch.float32).cumsum(dim=1) - 1"),
    Mutation(LAYERS, "torch.where(channel % 2 == 0, angle.sin(), angle.cos())", "torch.where(channel % 2 == 1, angle.sin(), angle.cos())"),
    Mutation(LAYERS, "10000 ** (2 * (channel // 2) / size)", "10000 ** (channel / size)"),
    Mutation(LAYERS, "start + 1 / num_clips", "start"),
    Mutation(LAYERS, "num_clips = video_mask.sum(dim=1, keepdim=True).clamp(min=1)", "num_clips = torch.full_like(video_mask[:, :1], video_mask.shape[1])"),
    Mutation(LAYERS, "self.feed_forward(self.attention_norm(clips))", "self.feed_forward(clips)"),
    Mutation(LAYERS, "self.attention(located, located, states, attention_mask)", "self.attention(located, located, located, attention_mask)"),
    Mutation(LAYERS, "states + position, memory + memory_position, memory, memory_mask", "states + position, memory, memory, memory_mask"),
    Mutation(LAYERS, "norm(features.relu() if index else features)", "norm(features)"),
    Mutation(LAYERS, "history.append(self.norm(states))\n            weights.append(layer_weights)\n        return torch.stack(history), tuple", "history.append(states)\n            weights.append(layer_weights)\n        return torch.stack(history), tuple"),
    # Models.
    Mutation(QD_DETR, "nn.functional.pad(video_mask, (1, 0), value=1)", "nn.functional.pad(video_mask, (1, 0), value=0)"),
    Mutation(QD_DETR, "EncodedQueries(states[:, 1:], states[:, 0],", "EncodedQueries(states[:, :-1], states[:, 0],"),
    Mutation(QD_DETR, "layer(video, position, text, text_bias)", "layer(video, torch.zeros_like(position), text, text_bias)"),
    Mutation(QD_DETR, "% len(own)", "// heads"),
    Mutation(QD_DETR, "(offsets + inverse_sigmoid(outputs.reference_anchors))", "(offsets + inverse_sigmoid(outputs.reference_anchors.detach()))"),
    Mutation(QD_DETR, "* self.config.hidden_size**-0.5", "* self.config.hidden_size**0.5"),
    Mutation(MOMENT_DETR, "torch.cat([video_mask, text_mask], dim=1), states.dtype", "torch.cat([video_mask, torch.ones_like(text_mask)], dim=1), states.dtype"),
    Mutation(MOMENT_DETR, "position, (0, 0, 0, num_tokens)", "position, (0, 0, num_tokens, 0)"),
    Mutation(HEADS, "stacked[batch:].unflatten(0, (negatives, batch)).transpose(0, 1)", "stacked[batch:].unflatten(0, (batch, negatives))"),
    Mutation(HEADS, "negative_saliency[:, -1] if", "negative_saliency[:, 0] if"),
    Mutation(HEADS, "text_features.roll(-1, dims=0)", "text_features.roll(1, dims=0)"),
    Mutation(HEADS, "init.constant_(module.weight, 0.25)", "init.constant_(module.weight, 1.0)"),
    Mutation(HEADS, "init.xavier_uniform_(module.weight, gain=module.xavier_gain)", "init.xavier_uniform_(module.weight)"),
    # Spans and the base loss.
    Mutation(SPANS, "torch.stack([(start + end) / 2, end - start]", "torch.stack([(start + end) / 2, (end - start) / 2]"),
    Mutation(SPANS, "- (hull - union) / hull.clamp(min=tiny)", "+ (hull - union) / hull.clamp(min=tiny)"),
    Mutation(SPANS, "torch.maximum(end, other_end) - torch.minimum(start, other_start)", "torch.maximum(end, other_end) - start"),
    Mutation(SPANS, "torch.log(probability.clamp", "-torch.log(probability.clamp"),
    Mutation(LOSS, "logits.softmax(dim=-1)[..., 0].unsqueeze(-1)", "logits.softmax(dim=-1)[..., 1].unsqueeze(-1)"),
    Mutation(LOSS, "- config.matcher_giou_cost * giou", "+ config.matcher_giou_cost * giou"),
    Mutation(LOSS, "-log_probability[..., 0], -config.background_weight * log_probability[..., 1]", "-log_probability[..., 1], -config.background_weight * log_probability[..., 0]"),
    Mutation(LOSS, "(F.softplus(irrelevant_scores) * video_mask).sum(dim=1)", "F.softplus(irrelevant_scores).sum(dim=1)"),
    Mutation(LOSS, "grade >= thresholds", "grade > thresholds"),
    Mutation(LOSS, "torch.arange(1, MAX_GRADE,", "torch.arange(1, MAX_GRADE - 6,"),
    Mutation(LOSS, "(saliency_labels + 0.5).floor()", "saliency_labels.floor()"),
    Mutation(LOSS, "(margin + outside - inside).relu()", "(margin + inside - outside).relu()"),
    Mutation(LOSS, "masked_mean(logits, matched, -1)", "masked_mean(logits, ~matched, -1)"),
    Mutation(LOSS, "saliency_labels >= 0.5", "saliency_labels > 0.5"),
    Mutation(LOSS, "enumerate(values[:-1])", "enumerate(values[1:])"),
    # The losses of SHINE.
    Mutation(COARSE, "(intra_margin + score_outside - score_inside)", "(intra_margin + score_inside - score_outside)"),
    Mutation(COARSE, "(inter_margin + score_irrelevant - score_inside)", "(inter_margin + score_irrelevant - score_inside.detach())"),
    Mutation(COARSE, "_mean_of_highest(irrelevant, inside, k)", "_mean_of_highest(irrelevant, valid, k)"),
    Mutation(COARSE, "(rank < k)", "(rank <= k)"),
    Mutation(COARSE, "descending=True", "descending=False"),
    Mutation(COARSE, "outside = ~inside & valid", "outside = ~inside"),
    Mutation(COARSE, "scores[:, 0])", "scores[:, 0] * 0)"),
    Mutation(FINE, "-relevance.detach().unsqueeze(1)", "-relevance.unsqueeze(1)"),
    Mutation(FINE, "margin + nearer[:, level] - distances[:, level + 1]", "margin + nearer[:, level] - distances[:, level]"),
    Mutation(FINE, "margin + nearer[:, level] - distances[:, level + 1]", "margin - nearer[:, level] + distances[:, level + 1]"),
    Mutation(FINE, "pad(nearest, (1, 0))[:, :-1]", "pad(nearest, (0, 1))[:, 1:]"),
    Mutation(FINE, "torch.where(index.cummax(dim=1).values > 0, first, 0)", "first"),
    Mutation(FINE, "margins = accumulate(", "margins = list("),
    Mutation(FINE, "accumulate(margin * present[:, level]", "accumulate(margin"),
    Mutation(FINE, "return torch.zeros_like(index)", "return torch.ones_like(index)"),
    Mutation(FINE, "-masked_mean(torch.cat([scores.unsqueeze(1), negatives]", "masked_mean(torch.cat([scores.unsqueeze(1), negatives]"),
    Mutation(SHINE, "negative_mask.bool() & negative_mask[:, :-1].any(dim=1, keepdim=True)", "negative_mask.bool()"),
    Mutation(SHINE, "(*by_margin[:levels], by_margin[-1])", "by_margin[: levels + 1]"),
    Mutation(SHINE, "negative_saliency_scores[:, -1],\n", "negative_saliency_scores[:, 0],\n"),
    # Inputs and outputs.
    Mutation(PROCESSING, "foreground = logits[..., 0].float() - logits[..., 1].float()", "foreground = logits[..., 1].float() - logits[..., 0].float()"),
    Mutation(PROCESSING, "scores.argsort(dim=1, descending=True, stable=True)", "scores.argsort(dim=1, stable=True)"),
    Mutation(PROCESSING, "(windows / self.clip_length).round()", "(windows / self.clip_length).floor()"),
    # Other places: mutations that survived in the past.
    Mutation(HIERARCHY, "levels[:, index] > levels[:, index + 1]", "levels[:, index] >= levels[:, index + 1]", METRICS_TESTS),
    Mutation(HIERARCHY, "(holds | ~present[:, 1:])", "holds", METRICS_TESTS),
    Mutation(HIERARCHY, "share_interval(holds[counts], videos[counts], confidence)", "share_interval(holds[counts], None, confidence)", METRICS_TESTS),
    Mutation(INTERVALS, "(1 - confidence) / 2", "1 - confidence", METRICS_TESTS),
    Mutation(INTERVALS, "np.append(held, [average, 0.0])", "np.append(held, [average, average])", METRICS_TESTS),
    Mutation(STATISTICS, "min(WINDOW_SHARE_BINS - 1,", "min(WINDOW_SHARE_BINS,", STATISTICS_TESTS),
    Mutation(STATISTICS, "sum(count - 1 for count in moments.values())", "sum(count for count in moments.values())", STATISTICS_TESTS),
    Mutation(STATISTICS, "if len(group) == 1", "if group", STATISTICS_TESTS),
    Mutation(STATISTICS, 'row["query"] in train_queries for', 'row["query"] not in train_queries for', STATISTICS_TESTS),
    Mutation(STATISTICS, "100 * count / total\n    return [dict", "count / total\n    return [dict", STATISTICS_TESTS),
    Mutation(NAMES, 'r".self_attention.\\1_content_proj."', 'r".self_attention.\\1_position_proj."', CONVERSION_TESTS),
    Mutation(NAMES, 'zip("qkv", tensor.chunk(3))', 'zip("kqv", tensor.chunk(3))', CONVERSION_TESTS),
    Mutation(NAMES, '"saliency_clip_head."', '"saliency_global_head."', CONVERSION_TESTS),
    Mutation(CHECKPOINTS, '"set_cost_giou": "matcher_giou_cost"', '"set_cost_giou": "matcher_class_cost"', CONVERSION_TESTS),
    Mutation(CHECKPOINTS, 'fields["normalize_features"] = not options', 'fields["normalize_features"] = options', CONVERSION_TESTS),
    Mutation(CHECKPOINTS, '(options.get("max_v_l") or -1) > 0', 'options.get("max_v_l") is not None', CONVERSION_TESTS),
]  # fmt: skip


def plant(mutation: Mutation, root: Path) -> None:
    """Write the fault into the copy at `root`.

    Raises:
        ValueError: if `old` does not occur exactly once.
    """
    path = root / "shine_hf" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(
            f"{mutation.file} must contain this once, but has it {text.count(mutation.old)} times: {mutation.old}"
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def first_failure(root: Path, tests: tuple[str, ...], log: Path) -> str | None:
    """Run tests of the copy at `root` in a fork until one fails, and return its name."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(root)
        sys.path.insert(0, str(root))
        os.write(writer, (_run_pytest(tests) or "").encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        failed = pipe.read()
    os.waitpid(child, 0)
    return failed or None


def _run_pytest(tests: tuple[str, ...]) -> str | None:
    import pytest

    class Recorder:
        failed = None

        def pytest_runtest_logreport(self, report):
            if report.failed and self.failed is None:
                self.failed = report.nodeid

        def pytest_collectreport(self, report):
            if report.failed and self.failed is None:
                self.failed = f"{report.nodeid} (cannot be imported)"

    recorder = Recorder()
    ignored = [f"--ignore={path}" for path in IGNORED]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line", "-m", "not slow", *ignored]
    code = pytest.main([*options, *tests], plugins=[recorder])
    return recorder.failed or (f"pytest ended with {code}" if code else None)


def run(mutations: list[Mutation]) -> list[tuple[Mutation, str | None, float]]:
    """Return each mutation with the test that caught it (or None) and the seconds it took."""
    os.environ["SHINE_SHARED"] = os.devnull
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("shine_hf", "tests", "pyproject.toml"):
            copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
            copy(REPOSITORY / name, root / name)
        clean = tuple(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
        if failed := first_failure(root, clean, root / "log"):
            raise SystemExit(f"{failed} fails without any mutation\n{(root / 'log').read_text()[-3000:]}")
        for mutation in mutations:
            begin = time.perf_counter()
            path = root / "shine_hf" / mutation.file
            original = path.read_bytes()
            plant(mutation, root)
            # Python would reuse the compiled file if size and mtime (in seconds) were unchanged.
            shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
            caught_by = first_failure(root, mutation.tests, root / "log")
            path.write_bytes(original)
            shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
            results.append((mutation, caught_by, time.perf_counter() - begin))
            print(f"{len(results):3} {results[-1][2]:5.1f} s  {caught_by or 'SURVIVED'}  <- {mutation.file}: {mutation.new[:60]}", flush=True)  # fmt: skip
    return results


def table(results: list[tuple[Mutation, str | None, float]]) -> str:
    """Return a Markdown table: file, original code, mutation, and the first test that failed."""

    def code(text: str) -> str:
        return f"`{' '.join(text.split()).replace('|', chr(92) + '|')}`"

    lines = ["| file | code | mutation | caught by |", "|---|---|---|---|"]
    for mutation, caught_by, _ in results:
        lines.append(
            f"| {mutation.file} | {code(mutation.old)} | {code(mutation.new)} | "
            f"{caught_by.removeprefix('tests/') if caught_by else '**nothing**'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only mutations whose file or code contains this")
    parser.add_argument("--output", type=Path, help="write the table as Markdown")
    args = parser.parse_args()
    results = run([m for m in MUTATIONS if args.only in f"{m.file} {m.old} {m.new}"])
    survived = sum(caught_by is None for _, caught_by, _ in results)
    summary = f"{len(results)} mutations, {survived} that no test catches."
    print(summary)
    if args.output:
        args.output.write_text(
            f"# Mutations\n\nWritten by `python -m benchmarks.mutations`.\n\n{summary}\n\n{table(results)}"
        )
    raise SystemExit(survived > 0)


if __name__ == "__main__":
    main()
