import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from shine_hf.data.collator import DataCollatorForMomentRetrieval
from shine_hf.encoders.words import WordsTextEncoder
from shine_hf.features.base import FeatureStore
from shine_hf.features.text import TextFeatures
from shine_hf.modeling import MomentRetrievalProcessor
from shine_hf.schema import FEATURES

from .made_up import make_row, make_rows

DIM = 16
TEXT = WordsTextEncoder(dim=DIM)


def make_collator(rows, **options) -> DataCollatorForMomentRetrieval:
    options = {"query_pool": rows, **options}
    videos = FeatureStore.from_spec("simulated:dim=8", rows, clip_length=0.5)
    processor = MomentRetrievalProcessor(clip_length=0.5, normalize_features=False)
    return DataCollatorForMomentRetrieval(processor, videos, TextFeatures.from_spec(f"words:dim={DIM}"), **options)


def same_text(batch, sample: int, negative: int, query: str) -> bool:
    """Return whether a negative of a batch is this query."""
    tokens = TEXT.encode([query])[0]
    mask = batch["negative_text_attention_mask"][sample, negative].bool()
    found = batch["negative_text_features"][sample, negative][mask].numpy()
    return found.shape == tokens.shape and np.array_equal(found, tokens)


def drawn(batch, sample: int, rows) -> dict:
    """Return the index of the row whose query was drawn as the irrelevant one."""
    (row,) = [row for row in rows if same_text(batch, sample, -1, row["query"])]
    return row


def test_batch_has_expected_shapes_masks_and_labels():
    rows = [
        make_row(0, duration=10.0, relevant_windows=[[1.0, 2.0]]),
        make_row(2, duration=6.1, relevant_windows=[[0, 3], [4, 9]]),
    ]
    batch = make_collator(rows)(rows)
    assert batch["video_features"].shape == (2, 20, 8) and batch["video_attention_mask"].sum(1).tolist() == [20, 13]
    assert batch["negative_text_features"].shape[:2] == (2, 4)
    labels = batch["labels"]
    assert labels["spans"].shape == (2, 2, 2) and labels["span_mask"].tolist() == [[True, False], [True, True]]
    torch.testing.assert_close(labels["spans"][0, 0], torch.tensor([0.15, 0.1]))
    # 13 clips cover 6.5 s: the window that ends after the video is cut at its end.
    torch.testing.assert_close(labels["spans"][1, 1], torch.tensor([5.25 / 6.5, 2.5 / 6.5]))
    assert labels["saliency"].shape == (2, 20) and not labels["saliency"][1, 13:].any()
    assert labels["saliency"][0].nonzero().flatten().tolist() == [2, 3]
    # For the metrics: windows as annotated, padded with -1.
    assert labels["windows"].tolist() == [[[1, 2], [-1, -1]], [[0, 3], [4, 9]]]
    torch.testing.assert_close(labels["durations"], torch.tensor([10.0, 6.1]))
    assert "positive_clips" not in labels


def test_negatives_follow_level_order_with_the_irrelevant_query_last():
    rows = make_rows(8)
    batch = make_collator(rows)(rows[:3])
    for sample, row in enumerate(rows[:3]):
        for level, query in enumerate(row["negative_queries"]):
            assert same_text(batch, sample, level, query)
    without = make_collator(rows, hard_negatives=False)
    assert without(rows[:3])["negative_text_features"].shape[1] == 1
    # A model trained without hard negatives is still evaluated with them.
    assert same_text(without.for_evaluation()(rows[:3]), 0, 0, rows[0]["negative_queries"][0])


def test_evaluation_negatives_do_not_depend_on_training_options():
    rows = make_rows(4)
    rows[0]["negative_flags"] = [["antonym"], [], []]
    collate = make_collator(rows, num_levels=1, skip_flagged=True, evaluated_levels=3)
    trained, evaluated = (
        c(rows)["negative_text_attention_mask"].any(dim=-1) for c in (collate, collate.for_evaluation())
    )
    assert trained.shape == (4, 2) and not trained[0, 0] and evaluated.shape == (4, 4) and evaluated[0].all()


def test_irrelevant_query_comes_from_another_video_and_differs():
    # Only one query of the other videos differs from the sentence.
    twin = "person opens the door number 0."
    rows = [
        make_row(0, vid="a", query=twin),
        make_row(1, vid="a"),
        make_row(2, vid="b", query=twin),
        make_row(3, vid="c"),
    ]
    collate = make_collator(rows)
    for epoch in range(20):
        collate.set_epoch(epoch)
        assert drawn(collate(rows[:1]), 0, rows[1:])["vid"] == "c"
        assert drawn(collate(rows[3:]), 0, [rows[0], rows[1]])["vid"] == "a"


def test_draws_depend_only_on_seed_epoch_and_row():
    rows = make_rows(24)

    def draws(batches, **options):
        collate = make_collator(rows, **options)
        collate.set_epoch(options.pop("epoch", 0))
        return {
            row["qid"]: drawn(batch, sample, rows)["qid"]
            for batch_rows in batches
            for batch in [collate(batch_rows)]
            for sample, row in enumerate(batch_rows)
        }

    together = draws([rows])
    assert (
        draws([[row] for row in rows])
        == draws([rows[::-1]])
        == draws([rows[i : i + 5] for i in range(0, 24, 5)])
        == together
    )
    assert draws([rows], seed=1) != together
    assert len(set(together.values())) > 8  # Draws are spread over the pool.
    collate = make_collator(rows)
    by_epoch = []
    for epoch in (0, 1, 0):
        collate.set_epoch(epoch)
        by_epoch.append([drawn(collate([row]), 0, rows)["qid"] for row in rows])
    assert by_epoch[0] == by_epoch[2] != by_epoch[1]


def test_evaluation_draws_are_the_same_in_every_epoch():
    rows = make_rows(12)
    collate = make_collator(rows, draw_margin_pairs=True)
    fixed = collate.for_evaluation()
    before = fixed(rows)
    collate.set_epoch(5)
    after = fixed(rows)
    assert torch.equal(before["negative_text_features"], after["negative_text_features"])
    assert "positive_clips" not in after["labels"]
    # The collator that it was made from is unchanged.
    assert "positive_clips" in collate(rows)["labels"]
    collate.set_epoch(6)
    changed = collate(rows)
    collate.set_epoch(5)
    assert not torch.equal(changed["negative_text_features"], collate(rows)["negative_text_features"])


@pytest.mark.parametrize("irrelevant", ["in_batch", "roll"])
def test_irrelevant_queries_can_come_from_the_batch(irrelevant):
    rows = [make_row(index, vid=f"v{index}") for index in range(5)]
    batch = make_collator(rows, irrelevant=irrelevant, query_pool=None)(rows)
    for sample, row in enumerate(rows):
        found = drawn(batch, sample, rows)
        assert found["vid"] != row["vid"]
        if irrelevant == "roll":
            assert found is rows[(sample + 1) % 5]
    # The batch has no candidate: the negative is absent and masked.
    single = make_collator(rows, irrelevant=irrelevant, query_pool=None)(rows[:1])
    assert not single["negative_text_attention_mask"][0, -1].any()


def test_in_batch_queries_never_come_from_the_same_video():
    rows = [make_row(0, vid="a"), make_row(1, vid="a"), make_row(2, vid="b")]
    batch = make_collator(rows, irrelevant="in_batch", query_pool=None)(rows)
    assert drawn(batch, 0, rows) is drawn(batch, 1, rows) is rows[2] and drawn(batch, 2, rows)["vid"] == "a"


def test_absent_and_flagged_levels_are_masked():
    rows = make_rows(6)
    rows[0] |= {"negative_queries": [], "masked_queries": [], "negative_flags": []}
    rows[1] |= {"negative_queries": ["dog eats the bone.", "", "cat sleeps."]}
    rows[2] |= {"negative_flags": [[], ["refilled"], []]}

    def present(**options):
        return make_collator(rows, **options)(rows[:3])["negative_text_attention_mask"].any(-1).tolist()

    assert present() == [[False, False, False, True], [True, False, True, True], [True, True, True, True]]
    assert present(skip_flagged=True)[2] == [True, False, True, True]
    assert present(num_levels=5)[2] == [True, True, True, False, False, True]
    # For a row with more levels, the nearest ones are used.
    assert present(num_levels=2)[2] == [True, True, True]


def test_negatives_are_weighted_by_doubt_and_by_changed_words():
    rows = make_rows(6)
    rows[0] |= {
        "query": "person opens the door.",
        "negative_queries": ["Person closes the door", "person opens the big door.", "dog eats a bone."],
        "negative_flags": [["near_synonym"], ["template_changed"], []],
    }
    rows[1] |= {"negative_queries": [], "masked_queries": [], "negative_flags": []}

    def weights(**options):
        return make_collator(rows, **options)(rows[:2])["labels"].get("negative_weights")

    assert weights() is None
    assert weights(doubtful_weight=0.25).tolist() == [[0.25, 1, 1, 1], [1, 1, 1, 1]]
    # One of four words, one inserted into four, all of them.
    torch.testing.assert_close(weights(weigh_changed_words=True)[0], torch.tensor([1 / 4, 1 / 9, 1, 1]))
    both = weights(weigh_changed_words=True, doubtful_weight=0.5)
    torch.testing.assert_close(both[0], torch.tensor([1 / 8, 1 / 9, 1, 1]))
    # A batch without hard negatives still has the irrelevant query; an evaluation weighs all alike.
    collate = make_collator(rows, weigh_changed_words=True, doubtful_weight=0.5)
    assert collate(rows[1:2])["labels"]["negative_weights"].tolist() == [[1]]
    assert "negative_weights" not in collate.for_evaluation()(rows[:2])["labels"]
    with pytest.raises(ValueError, match="doubtful_weight must be from 0 to 1, got 2"):
        make_collator(rows, doubtful_weight=2)


def test_margin_pairs_hold_one_clip_inside_and_one_outside():
    rows = make_rows(6)
    batch = make_collator(rows, draw_margin_pairs=True, soft_boundary_seconds=1.0)(rows)
    labels, lengths = batch["labels"], batch["video_attention_mask"].sum(1, keepdim=True)
    assert labels["positive_clips"].shape == labels["negative_clips"].shape == (6, 2)
    inside = labels["saliency"] >= 0.5
    assert inside.gather(1, labels["positive_clips"]).all() and not inside.gather(1, labels["negative_clips"]).any()
    # The outside clip is in the video, not in the padding.
    assert (labels["negative_clips"] < lengths).all()


def test_margin_pairs_need_clips_inside_and_outside():
    rows = [
        make_row(0, relevant_windows=[]),
        make_row(2, relevant_windows=[[5.0, 3.0]]),
        make_row(4, relevant_windows=[[0.0, 14.0]]),
    ]
    labels = make_collator(rows, draw_margin_pairs=True)(rows)["labels"]
    assert labels["span_mask"].tolist() == [[False], [False], [True]]
    assert not labels["saliency"][:2].any() and labels["saliency"][2].all()
    assert (labels["positive_clips"] == -1).all() and (labels["negative_clips"] == -1).all()


def test_qvhighlights_saliency_grades_become_labels():
    row = make_row(0, relevant_clip_ids=[2, 3], saliency_scores=[[1, 2, 3], [4, 4, 4]])
    saliency = make_collator([row])([row])["labels"]["saliency"][0]
    # Its clips are 2 s long, the model's half a second.
    assert saliency.tolist() == [0] * 8 + [6] * 4 + [12] * 4 + [0] * 4


@pytest.mark.parametrize("irrelevant", ["random", "in_batch"])
def test_worker_processes_give_the_same_batches_and_see_the_epoch(irrelevant):
    rows = make_rows(12)
    data = Dataset.from_list(rows, features=FEATURES)
    collate = make_collator(data, irrelevant=irrelevant, draw_margin_pairs=True)
    loader = DataLoader(data, batch_size=4, num_workers=2, collate_fn=collate, persistent_workers=True)
    for epoch in range(2):
        collate.set_epoch(epoch)
        for found, expected in zip(loader, (collate(rows[i : i + 4]) for i in range(0, 12, 4)), strict=True):
            for name in ("video_features", "text_features", "negative_text_features", "negative_text_attention_mask"):
                assert torch.equal(found[name], expected[name])
            assert found["labels"].pop("qids") == expected["labels"].pop("qids")
            for name, label in expected["labels"].items():
                assert torch.equal(found["labels"][name], label)


def test_collator_can_be_pickled():
    rows = make_rows(6)
    collate = make_collator(rows)
    again = pickle.loads(pickle.dumps(collate))
    assert torch.equal(again(rows)["negative_text_features"], collate(rows)["negative_text_features"])


def test_bad_options_and_missing_features_are_rejected():
    rows = make_rows(2)
    with pytest.raises(ValueError, match='must be "random", "in_batch" or "roll"'):
        make_collator(rows, irrelevant="other")
    with pytest.raises(ValueError, match="pass the rows of the training set"):
        make_collator(rows, query_pool=None)
    with pytest.raises(KeyError, match="'elsewhere'"):
        make_collator(rows)([make_row(5, vid="elsewhere")])
    with pytest.raises(ValueError, match="video0_train_0"):
        make_collator(rows)([{**rows[0], "query": " "}])
