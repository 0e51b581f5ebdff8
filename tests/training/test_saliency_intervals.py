"""Reported intervals of the saliency order account for queries that share a video."""

import json

import numpy as np
import pytest

from shine_hf.metrics import saliency_order

from .test_trainer import make_trainer, splits  # noqa: F401 (a fixture)


def test_intervals_are_clustered_by_video(splits, tmp_path):  # noqa: F811
    trainer = make_trainer(splits, tmp_path)
    rows = splits["train"]
    metrics = trainer.evaluate({"train": rows})
    trainer.save_query_results("train", rows)
    found = [json.loads(line) for line in (tmp_path / "queries" / "train.jsonl").read_text().splitlines()]
    levels = np.array([row["saliency"] for row in found], dtype=float)
    vids = [row["vid"] for row in found]
    assert len(set(vids)) < len(vids)
    expected = saliency_order(levels, clusters=vids, confidence=0.95)
    assert {name: metrics[f"eval_train_{name}"] for name in expected} == pytest.approx(expected)
    assert expected != saliency_order(levels, confidence=0.95)
