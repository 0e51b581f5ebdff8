"""Measure how well a model finds moments in long videos: join held-out videos, and search the joined videos for their queries.

    python -m benchmarks.study.joined_videos --model MODEL --dataset novel_composition.jsonl --video-features npz:FEATURES [--join 8]

The pipeline searches in windows of the model's length. A query may also match another of the joined videos, which counts as a miss, so the
results are lower bounds. Prints a JSON line per number of joined videos; 1 is the baseline.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict

import numpy as np
from tqdm import tqdm
from transformers import pipeline

from shine_hf import FeatureStore
from shine_hf.data.annotations import read_annotations
from shine_hf.inference.pipeline import TASK
from shine_hf.metrics import temporal_iou


def measure(find, rows, features, join: int) -> dict[str, float]:
    """Return R1@0.5, R5@0.5 and how often the first moment is in the right video, all in percent."""
    rows_of = defaultdict(list)
    for row in rows:
        rows_of[row["vid"]].append(row)
    vids = list(rows_of)
    clip_length = find.model.config.clip_length
    ious, in_right_video = [], []
    for first in tqdm(range(0, len(vids) - join + 1, join), desc=f"{join} joined", unit="film"):
        group = vids[first : first + join]
        film = np.concatenate([features[vid] for vid in group])
        bounds = np.cumsum([0, *(len(features[vid]) for vid in group)]) * clip_length
        asked = [(row, start, stop) for vid, start, stop in zip(group, bounds, bounds[1:]) for row in rows_of[vid]]
        for (row, start, stop), result in zip(
            asked, find(video=film, query=[row["query"] for row, _, _ in asked], top_k=5)
        ):
            moments = np.array([[moment["start"], moment["end"]] for moment in result["moments"]])
            windows = np.array(row["relevant_windows"]) + start
            ious.append(temporal_iou(moments[:, None], windows[None]).max(axis=1))
            in_right_video.append(start <= moments[0].mean() < stop)
    return {
        "joined": join,
        "queries": len(ious),
        "R1@0.5": round(100 * float(np.mean([found[0] >= 0.5 for found in ious])), 1),
        "R5@0.5": round(100 * float(np.mean([found.max() >= 0.5 for found in ious])), 1),
        "first in the right video": round(100 * float(np.mean(in_right_video)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, help="jsonl with qid, vid, query, relevant_windows")
    parser.add_argument("--video-features", required=True)
    parser.add_argument("--join", type=int, nargs="+", default=[1, 8], help="videos per joined video (default: 1 8)")
    args = parser.parse_args()
    find = pipeline(TASK, model=args.model, device="cpu")
    rows, features = list(read_annotations(args.dataset)), FeatureStore.from_spec(args.video_features)
    for join in args.join:
        print(json.dumps(measure(find, rows, features, join)), flush=True)


if __name__ == "__main__":
    main()
