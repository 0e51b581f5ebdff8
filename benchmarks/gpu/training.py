"""Measure a training run of the paper's size on made-up data with the real loader, to estimate the time of the full schedule."""

from __future__ import annotations

import random
import time
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from shine_hf import DataCollatorForMomentRetrieval, MomentRetrievalProcessor, ShineTrainer, ShineTrainingArguments
from shine_hf.features.base import FeatureStore
from shine_hf.features.packed import pack_features
from shine_hf.features.text import TextFeatures

from ..speed.input_pipeline import CLIP_LENGTH, MadeUpFeatures, made_up_rows
from ..speed.step import TEXT_DIM, make_model

# Charades-CG: 8,281 queries of 3,555 videos, 200 epochs of 259 batches.
PAPER_STEPS, ROWS, VIDEOS = 51_800, 8281, 3555


class Deadline(TrainerCallback):
    """Stop training at a given time (`time.monotonic`), and record the steps and seconds after the warm-up."""

    def __init__(self, until: float, warm_up: int):
        self.until, self.warm_up = until, warm_up
        self.steps, self.seconds, self._begin = 0, 0.0, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.warm_up:
            self._begin = time.monotonic()
        elif state.global_step > self.warm_up:
            self.steps, self.seconds = state.global_step - self.warm_up, time.monotonic() - self._begin
        if time.monotonic() > self.until:
            control.should_training_stop = True


def make_trainer(
    folder: Path,
    device: str,
    rows: int = ROWS,
    videos: int = VIDEOS,
    steps: int = 2000,
    model: dict | None = None,
    **settings,
) -> ShineTrainer:
    """Return a trainer of QD-DETR with SHINE on made-up packed features of 1,024 channels.

    Args:
        folder: Folder for the features and all saved files.
        device: `cuda` or `cpu`.
        rows, videos: Numbers of queries and videos.
        steps: Number of training steps.
        model: Configuration fields that differ from the paper's.
        settings: Training arguments.
    """
    rng = random.Random(0)
    clips = {f"v{index}": rng.randint(40, 88) for index in range(videos)}
    if not (folder / "features").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        pack_features(MadeUpFeatures(clips), folder / "features", half_precision=True, progress=False)
    per_video = made_up_rows(clips)
    queries = [{**per_video[index % videos], "qid": f"q{index}"} for index in range(rows)]
    texts = TextFeatures.from_spec(f"words:dim={TEXT_DIM}")
    texts.prepare(queries, levels=3, progress=False)
    network = make_model(clip_length=CLIP_LENGTH, **(model or {}))
    collator = DataCollatorForMomentRetrieval(
        MomentRetrievalProcessor.from_config(network.config),
        FeatureStore.from_spec(f"packed:{folder / 'features'}"),
        texts,
        query_pool=queries,
    )
    defaults = {"save_strategy": "no", "logging_steps": 500, "report_to": "none", "disable_tqdm": True, "seed": 0}
    args = ShineTrainingArguments(
        output_dir=str(folder), max_steps=steps, use_cpu=device == "cpu", **{**defaults, **settings}
    )
    return ShineTrainer(model=network, args=args, data_collator=collator, train_dataset=Dataset.from_list(queries))


def measure_schedule(
    folder: Path, device: str, until: float, steps: int, workers: int, **sizes: int
) -> dict[str, float]:
    """Train for some steps and extrapolate to the paper's schedule.

    Returns:
        Measured steps, milliseconds per step, and minutes for the paper's 51,800 steps.
    """
    warm_up = min(50, steps // 4)
    trainer = make_trainer(
        folder,
        device,
        steps=steps,
        bf16=device == "cuda",
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        **sizes,
    )
    deadline = Deadline(until, warm_up)
    trainer.add_callback(deadline)
    trainer.train()
    if not deadline.steps:
        return {"steps": 0}
    per_step = deadline.seconds / deadline.steps
    return {
        "steps": deadline.steps,
        "milliseconds per step": 1000 * per_step,
        f"minutes of {PAPER_STEPS:,} steps": PAPER_STEPS * per_step / 60,
    }
