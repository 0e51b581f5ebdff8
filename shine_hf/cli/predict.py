"""`shine-hf predict`: find moments for queries, from stored features or from a video file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

EXAMPLES = (
    "shine-hf predict --model user/qd-detr-shine --video kitchen.mp4 --query 'a person opens the fridge' --plot moments.png",
    "shine-hf predict --model OUT --video-features I3D --vid AO8RW --query 'person closes a door' --text-features words:",
    "shine-hf predict --model OUT --dataset charades_cg --data-dir DATA --video-features I3D --split novel_word --output novel_word.jsonl",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or repository of a trained model")
    source = parser.add_argument_group(
        "what to search: a video, one video of a feature store, or a split of a dataset"
    )
    source.add_argument(
        "--video", help="video file or URL; needs a model trained on features from an encoder of this library"
    )
    source.add_argument(
        "--video-features", nargs="+", help="feature stores, as in training (i3d:DIR, npz:DIR, simulated:, …)"
    )
    source.add_argument("--vid", help="video of the feature store")
    source.add_argument("--dataset", default="charades_cg", help="dataset of --split, and for simulated features")
    source.add_argument("--data-dir", help="folder of its original annotation files")
    source.add_argument("--split", help="predict every query of this split")
    parser.add_argument("--query", nargs="+", default=[], help="one or more queries")
    parser.add_argument(
        "--text-features", help="the text encoder or store, if not the one that the model was trained with"
    )
    parser.add_argument(
        "--video-encoder",
        help="the encoder of --video, if not the one that the model was trained with, e.g. another path",
    )
    parser.add_argument("--top-k", type=int, default=5, help="moments per query")
    parser.add_argument("--nms-threshold", type=float, help="IoU above which the worse of two moments is dropped")
    parser.add_argument("--output", help="write JSON lines in the submission format to this file instead of printing")
    parser.add_argument(
        "--plot",
        help="draw the moments of the first query into this file, with the saliency of the other queries of its video",
    )


def main(args: argparse.Namespace) -> None:
    if args.video and (args.split or args.vid or args.video_features):
        raise ValueError(
            "--video is a file; --video-features with --vid or --split are stored features: pass one or the other"
        )
    if not args.query and (args.video or not args.split):
        raise ValueError("pass --query, or --split (without --video) to predict all queries of a split")
    results = _from_video(args) if args.video else _from_features(args)
    if args.plot:
        results = list(results)
        if results:
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


def _from_features(args):
    from transformers import AutoModel

    from ..data.arguments import DataArguments
    from ..data.loading import load_splits
    from ..data.stores import text_features_of, text_source, video_store
    from ..features.grid import require_matching_grids
    from ..inference.features import predict_from_features
    from ..modeling import MomentRetrievalProcessor
    from ..schema import canonical_split

    if not args.split and not args.vid:
        raise ValueError("--video-features needs --vid (one video of the store) or --split")
    model = AutoModel.from_pretrained(args.model)
    data = DataArguments(
        dataset=args.dataset,
        data_dir=args.data_dir,
        negatives="none",
        video_features=args.video_features or [],
        text_features=text_features_of(model.config, args.text_features),
    )
    # Simulated features are computed from annotations; real features of a single video need none.
    needs_annotations = args.split or data.is_simulated
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
        MomentRetrievalProcessor.from_config(model.config),
        rows,
        store,
        texts,
        progress=progress,
        top_k=args.top_k,
        nms_threshold=args.nms_threshold,
    )


def _from_video(args):
    from ..encoders.video_source import video_name
    from ..inference.retriever import MomentRetriever

    find = MomentRetriever.from_pretrained(
        args.model, video_encoder=args.video_encoder, text_encoder=args.text_features
    ).find
    name = video_name(args.video)
    found = find(
        args.video, args.query, top_k=args.top_k, nms_threshold=args.nms_threshold, progress=sys.stderr.isatty()
    )
    for index, result in enumerate(found):
        yield {"qid": f"{name}_{index}", "vid": name, **result.to_dict()}


def plot_results(results: list[dict], video: str | Path | None, path: str | Path) -> None:
    """Draw the first result over the frames of the video, with the saliency of the other queries of that video."""
    from ..inference.retriever import RetrievalResult

    first, *others = (
        RetrievalResult.from_dict(result, video) for result in results if result.get("vid") == results[0].get("vid")
    )
    first.plot(path, others=others)
