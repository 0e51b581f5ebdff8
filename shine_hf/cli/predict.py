"""`shine-hf predict`: moments for queries, from stored features or from a video file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

EXAMPLES = (
    "shine-hf predict --model user/qd-detr-shine --video kitchen.mp4 --query 'a person opens the fridge' --plot moments.png",
    "shine-hf predict --model OUT --video-features I3D --vid AO8RW --query 'person closes a door' --text-features words:",
    "shine-hf predict --model OUT --dataset charades_cg --data-dir DATA --video-features I3D --split novel_word --output novel_word.jsonl",
)


def add_arguments(parser) -> None:
    parser.add_argument("--model", required=True, help="folder or repository of a trained model")
    source = parser.add_argument_group("what to look at: a video file, one video of a feature store, or a whole split")
    source.add_argument("--video", help="video file; needs a model trained on features of an encoder of this library")
    source.add_argument(
        "--video-features", nargs="+", help="feature stores, as in training (i3d:DIR, npz:DIR, simulated:, …)"
    )
    source.add_argument("--vid", help="video of the feature store")
    source.add_argument("--dataset", default="charades_cg", help="dataset of --split, and of simulated: features")
    source.add_argument("--data-dir", help="folder of its original annotation files")
    source.add_argument("--split", help="predict every query of this split")
    parser.add_argument("--query", nargs="+", default=[], help="one or more queries")
    parser.add_argument(
        "--text-features", help="the text encoder or store, if not the one that the model was trained with"
    )
    parser.add_argument("--top-k", type=int, default=5, help="moments per query (default 5)")
    parser.add_argument("--nms-threshold", type=float, help="IoU above which the worse of two moments goes")
    parser.add_argument("--output", help="write JSON lines in the submission format here instead of printing")
    parser.add_argument(
        "--plot",
        help="draw the first query's moments and its saliency into this file, with the saliency of the other queries beside it",
    )


def main(args) -> None:
    from transformers import AutoModel

    from ..modeling import MomentRetrievalProcessor

    if args.video and (args.split or args.vid or args.video_features):
        raise ValueError(
            "--video is a file; --video-features with --vid or --split are stored features: give one or the other"
        )
    if not args.query and (args.video or not args.split):
        raise ValueError("give --query, or --split (without --video) to predict a whole split")
    if args.video:
        results = _from_video(args)
    else:
        model = AutoModel.from_pretrained(args.model)
        results = _from_features(args, model, MomentRetrievalProcessor.from_config(model.config))
    if args.plot:
        results = list(results)
        plot_results(results, args.video, args.plot)
    if args.output:
        from ..inference.features import as_submission
        from ..io import atomic_file

        with atomic_file(args.output) as file:
            for result in results:
                file.write(json.dumps(as_submission(result)) + "\n")
        return
    for result in results:
        print(f"{result['vid']}: {result['query']}")
        for moment in result["moments"]:
            print(f"  {moment['start']:8.2f} s  {moment['end']:8.2f} s   score {moment['score']:.3f}")


def _from_features(args, model, processor):
    from ..data.loading import DataArguments, load_splits, text_features_of, text_source, video_store
    from ..features.grid import require_matching_grids
    from ..inference.features import predict_from_features
    from ..schema import canonical_split

    if not args.split and not args.vid:
        raise ValueError("--video-features needs --vid (one video of the store) or --split")
    data = DataArguments(
        dataset=args.dataset,
        data_dir=args.data_dir,
        negatives="none",
        video_features=args.video_features or [],
        text_features=text_features_of(model.config, args.text_features),
    )
    # Simulated features are made from annotations; real ones of a single video need none.
    needs_annotations = args.split or any(spec.startswith("simulated") for spec in data.video_features)
    splits = load_splits(data) if needs_annotations else {}
    if args.split:
        split = canonical_split(args.split)
        if split not in splits:
            raise ValueError(f"--split: no split {args.split!r}; there are {', '.join(splits)}")
        rows = splits[split]
    else:
        rows = [{"qid": f"{args.vid}_{i}", "vid": args.vid, "query": query} for i, query in enumerate(args.query)]
    store = video_store(data, splits, model.config.clip_length)
    texts, progress = text_source(data), bool(args.split) and sys.stderr.isatty()
    if args.split:
        require_matching_grids(store, {args.split: rows}, model.config.clip_length)
        texts.prepare(rows.select_columns(["qid", "vid", "query"]), progress=progress)
    return predict_from_features(
        model,
        processor,
        rows,
        store,
        texts,
        progress=progress,
        top_k=args.top_k,
        nms_threshold=args.nms_threshold,
    )


def _from_video(args):
    from transformers import pipeline

    from ..encoders.video_source import video_name

    find = pipeline("video-moment-retrieval", model=args.model, text_encoder=args.text_features)
    outputs = find(video=args.video, query=args.query, top_k=args.top_k, nms_threshold=args.nms_threshold)
    name = video_name(args.video)
    for index, (query, output) in enumerate(zip(args.query, outputs)):
        yield {"qid": f"{name}_{index}", "vid": name, "query": query, **output}


def plot_results(results: list[dict], video: str | Path | None, path: str | Path, windows=()) -> None:
    """The first result over the frames of the video, with the saliency of the other queries as counter-queries.

    `windows` are the annotated ones in seconds, if there are any.
    """
    from ..io import atomic_file
    from ..plots import plot_moments

    first, *others = results
    duration = len(first["saliency"]) * first["clip_length"]
    frames = []
    if video:
        from ..encoders.video_reader import read_film_strip

        frames = read_film_strip(video, duration)
    figure = plot_moments(
        first["query"],
        first["moments"],
        duration_seconds=duration,
        windows=windows,
        frames=frames,
        saliency=first["saliency"],
        negative_saliency={other["query"]: other["saliency"] for other in others},
        clip_length_seconds=first["clip_length"],
    )
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format=Path(path).suffix[1:] or "png")
