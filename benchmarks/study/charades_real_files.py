"""Make the files of the study on real features: CLIP features of Charades videos, and the Charades-CG queries of these videos.

    python -m benchmarks.study.charades_real_files --data-dir ../shared/data --rows outputs/studies/files/charades_cg --output outputs/studies/files/charades_real

* `video/VID.npz`, `all/VID.npz`: the features, one row per second. Each channel has mean 0 within each video (`video`) or over all training videos (`all`); both are divided by the
  channel's standard deviation over the training videos. The CLIP features of a video are all very similar: only a small part of them changes within the video.
* `SPLIT.jsonl`: the rows in `--rows` (see charades_files.py) whose videos have features. `gpt-3.5-turbo.jsonl`: the authors' negatives of these training rows.
* `glove.safetensors`, `glove.txt`: word vectors and their words.

The features are research data without a stated license: we publish neither them nor models trained on them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from .charades_files import copy_vectors

SPLITS = ("train", "test_trivial", "novel_composition", "novel_word")
NEGATIVES = "gpt-3.5-turbo.jsonl"


def read_features(folder: Path) -> dict[str, np.ndarray]:
    """Return video -> `(seconds, channels)` float32, read from a folder with one safetensors file of all rows and an index of ids."""
    (table,), (index,) = folder.glob("*.safetensors"), folder.glob("*_index.json")
    arrays, ids = load_file(table), json.loads(index.read_text(encoding="utf-8"))["video_ids"]
    offsets = arrays["offsets"]
    return {
        vid: arrays["features"][begin:end].astype(np.float32) for vid, begin, end in zip(ids, offsets, offsets[1:])
    }


def standardized(features: dict[str, np.ndarray], training: set[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each video with its features centered within the video and over all training videos; statistics use training videos only."""
    rows = np.concatenate([features[vid] for vid in sorted(training)])
    centered = np.concatenate([features[vid] - features[vid].mean(axis=0) for vid in sorted(training)])
    mean, deviation, within = rows.mean(axis=0), rows.std(axis=0) + 1e-6, centered.std(axis=0) + 1e-6
    for vid, array in features.items():
        yield vid, (array - array.mean(axis=0)) / within, (array - mean) / deviation


def read_jsonl(path: Path) -> list[dict]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, type=Path, help="folder with charades_clip and glove")
    parser.add_argument("--rows", required=True, type=Path, help="output folder of charades_files.py")
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    features = read_features(args.data_dir / "charades_clip")
    covered: dict[str, list[dict]] = {}
    for split in SPLITS:
        rows = read_jsonl(args.rows / f"{split}.jsonl")
        covered[split] = [row for row in rows if row["vid"] in features]
        print(f"{split}: {len(covered[split]):,} of {len(rows):,} rows")
    qids = {row["qid"] for row in covered["train"]}
    covered["gpt-3.5-turbo"] = [row for row in read_jsonl(args.rows / NEGATIVES) if row["qid"] in qids]
    for kind in ("video", "all"):
        (args.output / kind).mkdir(parents=True, exist_ok=True)
    for vid, within, over_all in standardized(features, {row["vid"] for row in covered["train"]}):
        np.savez(args.output / "video" / f"{vid}.npz", features=within.astype(np.float16))
        np.savez(args.output / "all" / f"{vid}.npz", features=over_all.astype(np.float16))
    for name, rows in covered.items():
        with open(args.output / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    copy_vectors(args.data_dir, args.output)


if __name__ == "__main__":
    main()
