"""Measure the input pipeline: its throughput compared with the training step, its start-up time, and the share of padding.

    python -m benchmarks.speed.input_pipeline [--videos 6000] [--data-dir ../shared/data] [--threads 2]

Writes packed features of generated videos (float16, 1,024 channels, 64 clips on average). Then times, in one run, opening the store, reading random videos, collating
full training batches (32 queries, each with three hard negatives and an irrelevant query), and the SHINE training step of benchmarks/speed/step.py on such a batch. With
`--data-dir`, also prints the share of padding in batches of Charades-CG videos, in random order and grouped by length.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from shine_hf.data.collator import DataCollatorForMomentRetrieval
from shine_hf.features.base import FeatureStore
from shine_hf.features.packed import pack_features
from shine_hf.features.text import TextFeatures
from shine_hf.losses import ShineLoss
from shine_hf.modeling import MomentRetrievalProcessor
from shine_hf.training.sampling import EpochLengthGroupedSampler

from .step import BATCH, TEXT_DIM, VIDEO_DIM, make_model, our_step

CLIP_LENGTH = 0.5
WORDS = "a person opens the tall door and then slowly takes two red cups from behind a small table".split()


class MadeUpFeatures(FeatureStore):
    """Random features to pack, drawn per video."""

    spec = "random"
    _dim = VIDEO_DIM

    def __init__(self, clips: dict[str, int]):
        self.clips = clips

    def keys(self):
        return iter(self.clips)

    def __contains__(self, key: str) -> bool:
        return key in self.clips

    def __len__(self) -> int:
        return len(self.clips)

    def _read(self, key: str) -> np.ndarray:
        rng = np.random.default_rng(int(key[1:]))
        return rng.standard_normal((self.clips[key], VIDEO_DIM), dtype=np.float32)


def made_up_rows(clips: dict[str, int]) -> list[dict]:
    rng = random.Random(0)

    def sentence():
        return " ".join(rng.sample(WORDS, 8))

    return [
        {
            "qid": f"q{index}",
            "vid": vid,
            "query": sentence(),
            "duration": count * CLIP_LENGTH,
            "relevant_windows": [[count * CLIP_LENGTH / 4, count * CLIP_LENGTH / 2]],
            "negative_queries": [sentence() for _ in range(3)],
            "negative_flags": [[], [], []],
        }
        for index, (vid, count) in enumerate(clips.items())
    ]


def seconds_per_turn(run, turns: int) -> float:
    begin = time.perf_counter()
    for turn in range(turns):
        run(turn)
    return (time.perf_counter() - begin) / turns


def padding_share(lengths: list[int], order: list[int]) -> float:
    """Return the share of padding among the clips of all batches."""
    batches = [[lengths[i] for i in order[first : first + BATCH]] for first in range(0, len(order), BATCH)]
    return 1 - sum(map(sum, batches)) / sum(max(batch) * len(batch) for batch in batches)


def report_padding(data_dir: str) -> None:
    from shine_hf.data.arguments import DataArguments
    from shine_hf.data.loading import load_splits
    from shine_hf.data.selection import training_rows

    rows = training_rows(load_splits(DataArguments(dataset="charades_cg", data_dir=data_dir))["train"])
    lengths = [max(1, round(duration / CLIP_LENGTH)) for duration in rows["duration"]]
    grouped = list(EpochLengthGroupedSampler(BATCH, list(rows["duration"]), 0, lambda: 0))
    shuffled = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
    print(f"padding, Charades-CG train, random order      {100 * padding_share(lengths, shuffled):6.1f} %")
    print(
        f"padding, Charades-CG train, grouped by length {100 * padding_share(lengths, grouped):6.1f} %  (target under 10)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=6000)
    parser.add_argument("--data-dir")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = random.Random(0)
    clips = {f"v{i}": rng.randint(40, 88) for i in range(args.videos)}
    rows = made_up_rows(clips)
    with tempfile.TemporaryDirectory() as folder:
        pack_features(MadeUpFeatures(clips), Path(folder) / "packed", half_precision=True, progress=True)

        begin = time.perf_counter()
        store = FeatureStore.from_spec(f"packed:{Path(folder) / 'packed'}")
        store["v0"]
        start_up = time.perf_counter() - begin
        keys = rng.sample(list(clips), len(clips))
        read = seconds_per_turn(lambda turn: store[keys[turn]].sum(), len(keys))

        texts = TextFeatures.from_spec(f"words:dim={TEXT_DIM}")
        begin = time.perf_counter()
        texts.prepare(rows, levels=3, progress=True)
        prefetch = time.perf_counter() - begin
        processor = MomentRetrievalProcessor.from_config(make_model(clip_length=CLIP_LENGTH).config)
        collator = DataCollatorForMomentRetrieval(processor, store, texts, query_pool=rows)
        rng.shuffle(rows)
        batches = [rows[first : first + BATCH] for first in range(0, 30 * BATCH, BATCH)]
        collate = seconds_per_turn(lambda turn: collator(batches[turn]), len(batches))
        loader = DataLoader(rows[: 60 * BATCH], BATCH, collate_fn=collator, num_workers=args.threads)
        begin = time.perf_counter()
        loaded = sum(1 for _ in loader)
        workers = (time.perf_counter() - begin) / loaded

        step = our_step(ShineLoss(), "cpu")
        step.inputs = collator(batches[0])
        for _ in range(3):
            step()
        trained = seconds_per_turn(lambda turn: step(), 5)
    print(f"start-up with {args.videos:,} videos, first read included {start_up:9.3f} s  (target under 5)")
    print(f"text features of all queries and negatives     {prefetch:9.3f} s, once")
    print(f"read of a random video                         {read * 1e6:9.0f} us = {1 / read:,.0f} videos/s")
    print(f"collating a batch of {BATCH}, in the process        {collate * 1e3:9.1f} ms")
    print(f"collating a batch of {BATCH}, {args.threads} workers             {workers * 1e3:9.1f} ms")
    print(f"SHINE training step                            {trained * 1e3:9.1f} ms")
    print(f"reading against training                       {trained / (BATCH * read):9.1f} times (target over 5)")
    print(f"collating against training                     {trained / collate:9.1f} times")
    if args.data_dir:
        report_padding(args.data_dir)


if __name__ == "__main__":
    main()
