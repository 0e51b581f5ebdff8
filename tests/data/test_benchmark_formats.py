"""Benchmarks in the common jsonl format: QVHighlights (several windows, graded saliency), Charades-STA, and custom files."""

import json

from shine_hf import DataCollatorForMomentRetrieval, MomentRetrievalProcessor
from shine_hf.data.annotations import read_annotations
from shine_hf.data.arguments import DataArguments
from shine_hf.data.loading import load_splits
from shine_hf.features.base import FeatureStore
from shine_hf.features.text import TextFeatures

OWN = [
    {"qid": 1, "vid": "a", "query": "a dog runs", "duration": 8, "relevant_windows": [[0, 2], [4, 6]], "relevant_clip_ids": [0, 2],
     "saliency_scores": [[4, 4, 3], [1, 0, 1]]},
    {"qid": 2, "vid": "b", "query": "a cat sleeps", "duration": 6, "relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2],
     "saliency_scores": [[2, 2, 2], [3, 3, 3]]},
]  # fmt: skip


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_several_windows_and_graded_saliency_reach_the_labels(tmp_path):
    rows = read_annotations(write(tmp_path / "own.jsonl", OWN))
    collator = DataCollatorForMomentRetrieval(
        MomentRetrievalProcessor(clip_length=2.0),
        FeatureStore.from_spec("simulated:dim=8", rows=list(rows), clip_length=2.0),
        TextFeatures.from_spec("words:dim=6"),
        query_pool=rows,
    )
    labels = collator(list(rows))["labels"]
    assert labels["span_mask"].tolist() == [[True, True], [True, False]]
    assert labels["saliency"].tolist() == [[11, 0, 2, 0], [0, 6, 9, 0]]
    assert labels["spans"][0].tolist() == [[0.125, 0.25], [0.625, 0.25]]


def test_negatives_of_a_file_are_merged_by_qid(tmp_path):
    train = write(tmp_path / "train.jsonl", OWN)
    negatives = [
        {
            "qid": "1",
            "query": "a dog runs",
            "masked_queries": ["a dog <mask>"],
            "negative_queries": ["a dog sits"],
            "negative_flags": [[]],
        }
    ]
    spec = f"train={train},val={write(tmp_path / 'val.jsonl', [{**OWN[1], 'qid': 3}])}"
    splits = load_splits(DataArguments(dataset=spec, negatives=str(write(tmp_path / "negatives.jsonl", negatives))))
    assert splits["train"]["negative_queries"] == [["a dog sits"], []] and len(splits["validation"]) == 1


def test_published_benchmarks_are_read(shared):
    highlights = read_annotations(shared / "data/qvhighlights/highlight_val_release.jsonl")
    assert len(highlights) == 1550 and sum(len(windows) > 1 for windows in highlights["relevant_windows"]) == 530
    assert len(highlights[0]["saliency_scores"]) == len(highlights[0]["relevant_clip_ids"])
    assert len(read_annotations(shared / "data/shine/charades_sta/charades_sta_test.jsonl")) == 3720
