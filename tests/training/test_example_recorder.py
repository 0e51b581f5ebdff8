"""Which query of an evaluation is shown on the model card, and that its curves are those of the model."""

import pytest
import torch

from shine_hf.cards.facts import SaliencyExample
from shine_hf.schema import VALIDATION
from shine_hf.training.example_recorder import ExampleRecorder
from shine_hf.training.model_card_callback import ModelCardCallback

from ..modeling.helpers import batch, tiny_model

ROWS = [
    {"qid": "a", "query": "A", "duration": 4.5, "negative_queries": ["A1", "A2"]},
    {"qid": "b", "query": "B", "duration": 2.5, "negative_queries": ["B1", "B2"]},
    {"qid": "c", "query": "C", "duration": 3.5, "negative_queries": []},
]


@pytest.fixture
def evaluated():
    """Return inputs, outputs and moments of three queries with two levels; the first lacks one level, the last both."""
    inputs = batch(negatives=3)
    inputs["negative_text_attention_mask"][0, 1] = 0
    inputs["negative_text_attention_mask"][2, :2] = 0
    inputs["labels"] |= {"windows": torch.tensor([[[0.5, 1.5], [-1.0, -1.0]]] * 3), "qids": ["a", "b", "c"]}
    labels = {name: value for name, value in inputs["labels"].items() if name not in ("windows", "qids")}
    with torch.no_grad():
        outputs = tiny_model("qd_detr").eval()(**{**inputs, "labels": labels})
    return inputs, outputs, torch.tensor([[[0.0, 1.0, 0.9], [1.0, 2.0, -1.0]]]).repeat(3, 1, 1)


def test_first_query_with_all_negatives_is_recorded(evaluated):
    recorder = ExampleRecorder()
    recorder.record(*evaluated)
    recorder.record(*evaluated)
    example = recorder.describe("validation", ROWS, 0.5)
    _, outputs, _ = evaluated
    assert (example.query, example.windows, example.duration_seconds) == ("B", [[0.5, 1.5]], 2.5)
    assert example.moments == [pytest.approx([0.0, 1.0, 0.9])]
    # The video has five clips, padded to nine in the batch.
    assert example.saliency == outputs.saliency_scores[1, :5].tolist()
    curves = outputs.negative_saliency_scores[1, :, :5].tolist()
    names = ["level 1: B1", "level 2: B2", "a query of another video"]
    assert list(example.negative_saliency.items()) == list(zip(names, curves))


def test_missing_levels_of_the_example_are_omitted(evaluated):
    inputs, outputs, moments = evaluated
    inputs["negative_text_attention_mask"][1] = 0
    recorder = ExampleRecorder()
    recorder.record(inputs, outputs, moments)
    example = recorder.describe("validation", ROWS, 0.5)
    assert example.query == "A" and list(example.negative_saliency) == ["level 1: A1", "a query of another video"]


def test_no_example_is_recorded_without_hard_negatives(evaluated):
    inputs, outputs, moments = evaluated
    recorder = ExampleRecorder()
    recorder.record(inputs, outputs | {"negative_saliency_scores": outputs.negative_saliency_scores[:, :1]}, moments)
    inputs["negative_text_attention_mask"][:, :2] = 0
    recorder.record(inputs, outputs, moments)
    assert recorder.describe("validation", ROWS, 0.5) is None


def test_card_prefers_the_validation_example():
    card = ModelCardCallback()
    for split in ("test_trivial", VALIDATION, "novel_word"):
        card.note_example(SaliencyExample(split, "x", 1.0, 0.5, [], [], [0.0], {}))
    assert card.example.split == VALIDATION
