"""Shapes-CG: a synthetic video benchmark of compositional temporal grounding that needs no download.

In each video, colored shapes appear one after another near a box. An event has five words: the color, the shape, what it does, how fast, and
where. Every video contains events that differ by a single word, so no word can be ignored. Some pairs of words never occur in training,
neither in a video nor in a query or a negative. The split `novel_composition` tests exactly those pairs.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..io import atomic_file
from .events import (
    PAIR_SLOTS,
    SLOTS,
    TEMPLATES,
    WORDS,
    Event,
    Pair,
    ShapesVideo,
    Words,
    caption,
    masked,
    pairs_of,
)
from .rendering import render_video, write_mp4

# This includes a share of the gaps. The event itself may take less than a third of it, and a shape that blinks slowly is dark for 2 s.
SECONDS_PER_EVENT = 7
# Quick motion has a period of one second.
SLOWEST_FPS = 4
# Number of words that a negative of each level changes.
CHANGED_WORDS = (1, 2, 4)
SPLITS = ("train", "test_trivial", "novel_composition")
# Columns that are empty in some split are not written: `load_dataset("json", …)` would infer the type null.
FILE_COLUMNS = ("qid", "vid", "query", "duration", "relevant_windows", "masked_queries", "negative_queries")


@dataclass(frozen=True)
class ShapesCG:
    """The benchmark. Everything follows from the seed and the sizes.

    Each video depends only on the seed and its own index, so a smaller benchmark is a prefix of a larger one.

    Args:
        seed (`int`): Seed of the novel pairs and of the videos.
        train_videos, test_trivial_videos, novel_composition_videos (`int`): Videos per split.
        duration (`float`): Length of a video in seconds, at least 7 per event.
        events (`int`): Events per video, at least 3: two of them differ from a third one by a single word.
        size (`int`): Width and height in pixels, even.
        fps (`int`): Frames per second, at least 4.

    Raises:
        ValueError: for sizes outside these limits.
    """

    seed: int = 0
    train_videos: int = 3000
    test_trivial_videos: int = 400
    novel_composition_videos: int = 400
    duration: float = 32.0
    events: int = 4
    size: int = 48
    fps: int = 8
    novel_pairs: frozenset[Pair] = field(init=False, repr=False)

    def __post_init__(self):
        if self.events < 3 or self.duration < self.events * SECONDS_PER_EVENT:
            raise ValueError(
                f"a video needs at least 3 events and {SECONDS_PER_EVENT} s for each, so that every event is visible even if it blinks "
                f"slowly; got {self.events} events in {self.duration} s"
            )
        if self.size < 16 or self.size % 2 or self.fps < SLOWEST_FPS:
            raise ValueError(
                f"size must be even and at least 16, and fps at least {SLOWEST_FPS} to show quick motion; got {self.size} px and {self.fps} fps"
            )
        if min(self.train_videos, self.test_trivial_videos, self.novel_composition_videos) < 0:
            raise ValueError("the number of videos must not be negative")
        object.__setattr__(self, "novel_pairs", _choose_novel_pairs(np.random.default_rng([self.seed, 0])))

    def videos(self, split: str) -> Iterator[ShapesVideo]:
        """Yield the videos of a split, in order.

        Raises:
            ValueError: for an unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; Shapes-CG has {', '.join(SPLITS)}")
        for index in range(getattr(self, f"{split}_videos")):
            yield self._video(split, index, self._rng(split, index))

    def rows(self, split: str) -> Iterator[dict]:
        """Yield rows of the data schema: one query per event; in `novel_composition`, only for events with a novel pair."""
        for index, video in enumerate(self.videos(split)):
            rng = self._rng(split, index, 1)
            for number, event in enumerate(video.events):
                pairs = self.novel_pairs_in(event.words)
                if split == "novel_composition" and not pairs:
                    continue
                template = TEMPLATES[rng.integers(len(TEMPLATES))]
                negatives = self._negatives(event.words, rng, avoid_novel=split != "novel_composition")
                yield {
                    "qid": f"{video.vid}_{number}",
                    "vid": video.vid,
                    "query": caption(event.words, template),
                    "duration": video.duration,
                    "relevant_windows": [[event.start, event.end]],
                    "masked_queries": [caption(masked(event.words, words), template) for words in negatives],
                    "negative_queries": [caption(words, template) for words in negatives],
                    "negative_flags": [[] for _ in negatives],
                    "annotation_flags": [],
                    "composition_types": [kind for kind, *_ in pairs],
                    "composition_words": [words for _, *words in pairs],
                }

    def novel_pairs_in(self, words: Words) -> list[Pair]:
        """Return the pairs of words in an event that never occur in training."""
        return [pair for pair in pairs_of(words) if pair in self.novel_pairs]

    def write(self, folder: str | Path, splits: tuple[str, ...] = SPLITS, workers: int | None = None) -> Path:
        """Write `{split}.jsonl` and `videos/{vid}.mp4`. Existing videos are kept, so an interrupted call can be repeated.

        Raises:
            ValueError: if the folder contains a benchmark with other settings.
        """
        folder = Path(folder)
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        settings = {"seed": self.seed, "duration": self.duration, "events": self.events, "size": self.size}
        settings["fps"] = self.fps
        written = folder / "shapes_cg.json"
        if written.is_file() and json.loads(written.read_text(encoding="utf-8")) != settings:
            raise ValueError(f"{folder} contains Shapes-CG with other settings ({written}); choose another folder")
        with atomic_file(written) as file:
            file.write(json.dumps(settings, indent=2) + "\n")
        for split in splits:
            with atomic_file(folder / f"{split}.jsonl") as file:
                rows = ({name: row[name] for name in FILE_COLUMNS} for row in self.rows(split))
                file.writelines(json.dumps(row) + "\n" for row in rows)
        missing = [
            video
            for split in splits
            for video in self.videos(split)
            if not (folder / "videos" / f"{video.vid}.mp4").is_file()
        ]
        # Threads are enough: NumPy and the video encoder release the GIL.
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            jobs = pool.map(lambda video: self.write_video(video, folder / "videos" / f"{video.vid}.mp4"), missing)
            try:
                for _ in tqdm(jobs, total=len(missing), desc="Rendering Shapes-CG", unit="video", disable=not missing):
                    pass
            finally:
                # Otherwise Ctrl-C would wait for all videos.
                pool.shutdown(wait=False, cancel_futures=True)
        return folder

    def write_video(self, video: ShapesVideo, path: Path) -> Path:
        """Render a video into an MP4 file."""
        return write_mp4(path, render_video(video, self.size, self.fps), self.fps)

    # ---- drawing videos and negatives

    def _rng(self, split: str, index: int, stream: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1 + SPLITS.index(split), index, stream])

    def _video(self, split: str, index: int, rng: np.random.Generator) -> ShapesVideo:
        avoid_novel = split != "novel_composition"
        while True:
            target = self._draw_words(rng)
            # Training avoids novel pairs; the novel split needs them.
            if bool(self.novel_pairs_in(target)) != avoid_novel:
                break
        chosen = [target]
        while len(chosen) < self.events:
            near = len(chosen) <= 2
            words = self._changed(target, (int(rng.integers(len(SLOTS))),), rng) if near else self._draw_words(rng)
            if words not in chosen and not (avoid_novel and self.novel_pairs_in(words)):
                chosen.append(words)
        chosen = [chosen[i] for i in rng.permutation(len(chosen))]

        # Gaps and events alternate and fill the video.
        lengths = np.empty(2 * self.events + 1)
        lengths[::2] = rng.uniform(0.5, 2.5, self.events + 1)
        lengths[1::2] = rng.uniform(3, 8, self.events)
        times = np.cumsum(lengths * (self.duration / lengths.sum())).round(2)
        events = tuple(
            Event(words, float(start), float(end), float(rng.uniform()), int(rng.choice((-1, 1))))
            for words, start, end in zip(chosen, times[:-1:2], times[1::2])
        )
        x, y = rng.uniform(0.45, 0.55, 2).round(3).tolist()
        return ShapesVideo(f"{split}_{index:05d}", self.duration, (x, y), int(rng.integers(2**31)), events)

    def _draw_words(self, rng: np.random.Generator) -> Words:
        return tuple(words[rng.integers(len(words))] for words in WORDS.values())

    @staticmethod
    def _changed(words: Words, slots: tuple[int, ...], rng: np.random.Generator) -> Words:
        """Replace the words in the given slots with different ones."""
        changed = list(words)
        for slot in slots:
            others = [word for word in WORDS[SLOTS[slot]] if word != words[slot]]
            changed[slot] = others[rng.integers(len(others))]
        return tuple(changed)

    def _negatives(self, words: Words, rng: np.random.Generator, avoid_novel: bool) -> list[Words]:
        """Draw one negative per level. Each level changes the slots of the previous one and more.

        The words of a slot exclude each other and events do not overlap, so a changed word makes a query false during its event.
        """
        while True:
            order = tuple(int(slot) for slot in rng.permutation(len(SLOTS)))
            negatives = [self._changed(words, order[:count], rng) for count in CHANGED_WORDS]
            if not (avoid_novel and any(self.novel_pairs_in(negative) for negative in negatives)):
                return negatives


def _choose_novel_pairs(rng: np.random.Generator) -> frozenset[Pair]:
    """Choose the pairs to hold out: some of each kind, so that every word keeps most of its partners."""
    pairs = set()
    for kind, count in (("a-n", 5), ("v-n", 5), ("v-adv", 2), ("v-p", 4)):
        first, second = (WORDS[slot] for slot in PAIR_SLOTS[kind])

        partners = zip(rng.permutation(first), itertools.islice(itertools.cycle(rng.permutation(second)), count))
        pairs |= {(kind, str(one), str(other)) for one, other in partners}
    return frozenset(pairs)
