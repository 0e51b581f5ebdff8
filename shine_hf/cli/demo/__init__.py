"""`shine-hf demo`: render videos, train on them and find moments in them, on this machine and without downloads."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...training.recipe import Recipe
    from .examples import Example

EXAMPLES = (
    "shine-hf demo --output-dir shapes_cg",
    "shine-hf demo --output-dir shapes_cg --compare",
    "shine-hf demo --train-videos 200 --test-videos 20 --max-steps 100",
)
MODELS = {"base": "QD-DETR", "shine": "QD-DETR with SHINE"}
VIDEO_ENCODER = "pixels:size=20,frames=4"
# Not the entire chain: level 3 changes four of five words, like a random query, so there is no order between the two.
SUMMARY_METRICS = ("R1@0.5", "R1@0.7", "mIoU", "positive>level1", "level1>level2", "level2>level3")
SHOWN = 8
NEXT_STEPS = """\
Ask this model about another query and video:
  shine-hf predict --model {model} --video {video} --query "{query}"

It has only seen colored shapes. For your own videos, train on them (docs/your_own_data.md):
  shine-hf features extract --videos VIDEOS --encoder clip:openai/clip-vit-base-patch32 --clip-length 2 --output FEATURES
  shine-hf negatives generate --dataset train.jsonl --generator lexical --output negatives.parquet
  shine-hf train --config charades_cg_qd_detr_shine --dataset train=train.jsonl,test=test.jsonl --negatives negatives.parquet \\
      --video-features FEATURES --text-features clip:openai/clip-vit-base-patch32 --clip-length 2 --output-dir OUT
  shine-hf predict --model OUT --video kitchen.mp4 --query "a person opens the fridge"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Render Shapes-CG, a small synthetic video benchmark; encode its videos; train QD-DETR with the SHINE losses; evaluate; and show what "
        "the model finds for eight queries about videos that it has never seen. Run the same command again to resume an interrupted demo."
    )
    parser.add_argument("--output-dir", default="outputs/shapes_cg", metavar="DIR", help="where all files go")
    parser.add_argument("--compare", action="store_true", help="train the base model too, and show both side by side")
    parser.add_argument("--train-videos", type=int, default=500, help="videos to train on")
    parser.add_argument("--test-videos", type=int, default=60, help="videos per test split")
    parser.add_argument("--max-steps", type=int, default=500, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")


def main(args: argparse.Namespace) -> int:
    """Run the demo. After an interruption, the exit status is that of the signal."""
    from ...training.stop_on_signal import TrainingStopped

    try:
        _run(args)
    except TrainingStopped as stopped:
        print(
            f"\nshine-hf demo: stopped after step {stopped.step} of {stopped.max_steps}, which is saved. Run the same command again to resume.",
            file=sys.stderr,
        )
        return stopped.exit_status
    except KeyboardInterrupt:
        print("\nshine-hf demo: stopped. Run the same command again to resume.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _run(args: argparse.Namespace) -> None:
    from ...encoders.extract import extract_features
    from ...shapes_cg.rendering import contact_sheet
    from ...shapes_cg.world import SPLITS, ShapesCG
    from .examples import find_examples
    from .page import COMPARISON_NOTE, write_page

    if args.train_videos < 2 or args.test_videos < 1:
        raise ValueError(
            f"at least 2 videos to train on and 1 to test on are needed, got {args.train_videos} and {args.test_videos}"
        )
    began = time.perf_counter()
    folder = Path(args.output_dir)
    world = ShapesCG(
        train_videos=args.train_videos,
        test_trivial_videos=args.test_videos,
        novel_composition_videos=args.test_videos,
    )
    world.write(folder)
    contact_sheet([next(world.videos(split)) for split in SPLITS], folder / "contact_sheet.png")

    recipes = {name: _recipe(name, folder, args) for name in (MODELS if args.compare else ["shine"])}
    videos = [folder / "videos" / f"{video.vid}.mp4" for split in SPLITS for video in world.videos(split)]
    unreadable = extract_features(videos, folder / "features", VIDEO_ENCODER, recipes["shine"].model.clip_length)
    if unreadable:
        raise ValueError("; ".join(f"{path}: {reason}" for path, reason in unreadable))

    results = {name: _train(recipe) for name, recipe in recipes.items()}
    models = {MODELS[name]: recipe.training.output_dir for name, recipe in recipes.items()}
    examples = find_examples(list(world.rows("novel_composition")), folder / "videos", models, SHOWN)
    summary = _summary(results)
    page = write_page(folder / "demo.html", examples, list(models), summary)

    print(f"\nShapes-CG, {_minutes(time.perf_counter() - began)} in all\n\n{summary}\n")
    print(_hits(examples, list(models)))
    if len(models) > 1:
        print(COMPARISON_NOTE)
    last = examples[-1]
    print(f"\n{'page':<8}{page}")
    for title, model in models.items():
        print(f"{'model':<8}{model} ({title})")
    print("\n" + NEXT_STEPS.format(model=models[MODELS["shine"]], video=last.video, query=last.negative_queries[0]))


def _recipe(model: str, folder: Path, args: argparse.Namespace) -> Recipe:
    from ...shapes_cg.world import SPLITS
    from ...training.recipe import parse_recipe

    # The page shows the best model, so there is an evaluation even in a short run.
    every = max(1, min(350, args.max_steps // 2))
    options = {
        "config": f"shapes_cg_qd_detr_{model}",
        "dataset": ",".join(f"{split}={folder / f'{split}.jsonl'}" for split in SPLITS),
        "video_features": f"npz:{folder / 'features'}",
        "output_dir": folder / f"qd_detr_{model}_seed{args.seed}",
        "resume_from_checkpoint": "true",
        "seed": args.seed,
        "max_steps": args.max_steps,
        # Many small steps learn more in a few minutes than few large ones.
        "per_device_train_batch_size": 12,
        "warmup_steps": args.max_steps // 10,
        # With the usual 0.9 and 0.999, the loss stays on its first plateau for half of so short a training.
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "eval_steps": every,
        "save_steps": every,
    }
    return parse_recipe([word for name, value in options.items() for word in (f"--{name}", str(value))])


def _train(recipe: Recipe) -> dict[str, dict[str, float]]:
    from ...training.run import run_recipe

    print(f"\nTraining {recipe.training.output_dir} for {recipe.training.max_steps:,} steps")
    began = time.perf_counter()
    results = run_recipe(recipe)
    print(f"Trained and evaluated in {_minutes(time.perf_counter() - began)}")
    return results


def _summary(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return one line per model and test split."""
    lines = [f"{'model':<6} {'split':<18}" + "".join(f"{name:>17}" for name in SUMMARY_METRICS)]
    for model, splits in results.items():
        for split, metrics in splits.items():
            if split != "validation":
                lines.append(f"{model:<6} {split:<18}" + "".join(f"{metrics[name]:17.2f}" for name in SUMMARY_METRICS))
    return "\n".join(lines)


def _hits(examples: list[Example], models: list[str]) -> str:
    """Return the result of each model on each example, and the number of hits."""
    lines = []
    for example in examples:
        (start, end), *_ = example.windows
        lines.append(f"{example.query}  ({example.video.name}, annotated {start:.1f}-{end:.1f} s)")
        for model in models:
            best, iou = example.results[model].moments[0], example.iou(model)
            verdict = "hit " if example.is_hit(model) else "miss"
            lines.append(
                f"  {verdict}  {best.start:5.1f}-{best.end:5.1f} s, IoU {iou:.2f}"
                + (f"  {model}" if len(models) > 1 else "")
            )
    for model in models:
        count = sum(example.is_hit(model) for example in examples)
        lines.append(f"{model}: {count} of {len(examples)} found (IoU 0.5 or more)")
    return "\n".join(lines)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
