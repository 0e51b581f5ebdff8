"""`shine-hf demo`: from nothing to moments in a video, on this machine, without downloads."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

EXAMPLES = (
    "shine-hf demo",
    "shine-hf demo --compare --seed 1",
    "shine-hf demo --train-videos 200 --test-videos 20 --max-steps 100",
)
MODELS = ("base", "shine")
VIDEO_ENCODER = "pixels:size=20,frames=4"
# Not the whole chain: level 3 changes four words of five, as a query drawn at random does, so there is no order between the two.
SUMMARY_METRICS = ("R1@0.5", "R1@0.7", "mIoU", "positive>level1", "level1>level2", "level2>level3")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Render Shapes-CG, a made-up video benchmark; encode its videos; train QD-DETR with the SHINE losses; evaluate; and find the moments of "
        "a video that was held out. An interrupted demo goes on where it stopped when it is started again."
    )
    parser.add_argument(
        "--output-dir", "--output", default="outputs/shapes_cg", metavar="DIR", help="where everything is written"
    )
    parser.add_argument("--compare", action="store_true", help="train the base model too, and print both")
    parser.add_argument("--train-videos", type=int, default=3000, help="videos to train on (default: %(default)s)")
    parser.add_argument("--test-videos", type=int, default=200, help="videos per test split (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, help="training steps, if not those of the recipe")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Run the demo. An interrupted one is continued by the same command; the exit status is then that of the signal."""
    from ..training.stop_on_signal import TrainingStopped

    try:
        _run(args)
    except (TrainingStopped, KeyboardInterrupt) as stopped:
        status = stopped.exit_status if isinstance(stopped, TrainingStopped) else 128 + signal.SIGINT
        done = (
            f" after step {stopped.step} of {stopped.max_steps}, which is saved"
            if isinstance(stopped, TrainingStopped)
            else ""
        )
        print(f"\nshine-hf demo: stopped{done}. The same command goes on from there.", file=sys.stderr)
        return status
    return 0


def _run(args) -> None:
    from ..encoders.extract import extract_features
    from ..shapes_cg.rendering import contact_sheet
    from ..shapes_cg.world import SPLITS, ShapesCG

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
    sheet = contact_sheet([next(world.videos(split)) for split in SPLITS], folder / "contact_sheet.png")

    recipes = {model: _recipe(model, folder, args) for model in (MODELS if args.compare else MODELS[-1:])}
    videos = [folder / "videos" / f"{video.vid}.mp4" for split in SPLITS for video in world.videos(split)]
    unreadable = extract_features(
        videos, folder / "features", VIDEO_ENCODER, recipes["shine"].model.clip_length, workers=2
    )
    if unreadable:
        raise ValueError("; ".join(f"{path}: {reason}" for path, reason in unreadable))

    results = {model: _train(recipe) for model, recipe in recipes.items()}
    figure, found = _predict(world, folder, recipes["shine"].training.output_dir)

    print(f"\nShapes-CG, {_minutes(time.perf_counter() - began)} in all\n")
    print(_summary(results))
    print(f"\n{found}\n")
    print(f"{'examples':<12}{sheet}\n{'prediction':<12}{figure}")
    for recipe in recipes.values():
        print(f"{'model':<12}{recipe.training.output_dir}\n{'table':<12}{recipe.training.output_dir}/all_results.json")


def _recipe(model: str, folder: Path, args):
    from ..shapes_cg.world import SPLITS
    from ..training.recipe import parse_recipe

    options = {
        "config": f"shapes_cg_qd_detr_{model}",
        "dataset": ",".join(f"{split}={folder / f'{split}.jsonl'}" for split in SPLITS),
        "video_features": f"npz:{folder / 'features'}",
        "output_dir": folder / f"qd_detr_{model}_seed{args.seed}",
        "resume_from_checkpoint": "true",
        "seed": args.seed,
    }
    if args.max_steps is not None:
        steps = {"max_steps": args.max_steps, "eval_steps": args.max_steps, "save_steps": args.max_steps}
        options |= steps if args.max_steps < 500 else {"max_steps": args.max_steps}
    return parse_recipe([word for name, value in options.items() for word in (f"--{name}", str(value))])


def _train(recipe) -> dict[str, dict[str, float]]:
    from ..training.run import run_recipe

    print(f"\nTraining {recipe.training.output_dir} for {recipe.training.max_steps:,} steps")
    began = time.perf_counter()
    results = run_recipe(recipe)
    print(f"Trained and evaluated in {_minutes(time.perf_counter() - began)}")
    return results


def _predict(world, folder: Path, model: str) -> tuple[Path, str]:
    """Ask for a query with a novel pair, and for its negatives, in a video that the model never saw."""
    from transformers import pipeline

    from .. import inference  # noqa: F401 (registers the task)
    from .predict import plot_results

    # A shape that blinks may be off in every frame of the film strip.
    row = min(world.rows("novel_composition"), key=lambda row: "blinks" in row["query"])
    video = folder / "videos" / f"{row['vid']}.mp4"
    queries = [row["query"], *row["negative_queries"]]
    find = pipeline("video-moment-retrieval", model=model)
    results = [{"query": query, **result} for query, result in zip(queries, find(video=video, query=queries, top_k=3))]
    figure = folder / "prediction.png"
    plot_results(results, video, figure, windows=row["relevant_windows"])
    (start, end), best = row["relevant_windows"][0], results[0]["moments"][0]
    return figure, (
        f"{video.name}: {row['query']!r}\n"
        f"  annotated  {start:6.2f} to {end:6.2f} s\n"
        f"  found      {best['start']:6.2f} to {best['end']:6.2f} s, score {best['score']:.2f}"
    )


def _summary(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """A line per model and test split."""
    lines = [f"{'model':<6} {'split':<18}" + "".join(f"{name:>17}" for name in SUMMARY_METRICS)]
    for model, splits in results.items():
        for split, metrics in splits.items():
            if split != "validation":
                lines.append(f"{model:<6} {split:<18}" + "".join(f"{metrics[name]:17.2f}" for name in SUMMARY_METRICS))
    return "\n".join(lines)


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
