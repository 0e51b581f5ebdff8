"""The model card: golden texts, what the Hub reads in them, figures, and examples of use that run."""

import contextlib
import dataclasses
import io
import json
import re

import numpy as np
import pytest
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

from shine_hf import MomentRetrievalProcessor
from shine_hf.cards.eval_results import EVAL_RESULTS_FILE
from shine_hf.cards.facts import describe_data, public_settings
from shine_hf.cards.model_card import (
    CARD_FILE,
    card_files,
    render_model_card,
    write_model_card,
)
from shine_hf.data.arguments import DataArguments

from ..encoders.videos import write_video
from ..modeling.helpers import tiny_model
from .golden_cards import ALL_FIGURES, FOLDER, base_model_in_training, render_all, shine_on_simulated_features


@pytest.mark.parametrize(("name", "content"), render_all().items(), ids=render_all())
def test_the_cards_in_model_cards_are_those_that_are_rendered(name, content):
    assert content == (FOLDER / name).read_text(encoding="utf-8"), (
        "rendered differently now. If that is what you want: python -m tests.cards.golden_cards"
    )


def test_the_hub_reads_the_same_results_in_both_formats():
    files = card_files(shine_on_simulated_features(), with_figures=False)
    card = ModelCard(files[CARD_FILE].decode())
    index = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    entries = parse_eval_result_entries(yaml.safe_load(files[EVAL_RESULTS_FILE]))
    # The validation split is a part of the training videos: it is no benchmark.
    assert index == {("novel_composition", name): 22.22 for name in ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU", "mAP")}
    assert sorted(entry.value for entry in entries) == sorted(index.values())
    assert all(entry.dataset_revision.startswith("fedcba") and "simulated" in entry.notes for entry in entries)
    assert {"simulated-features", "video-moment-retrieval"} <= set(card.data.tags)


def test_data_that_is_on_no_hub_has_no_entry_there():
    assert EVAL_RESULTS_FILE not in card_files(base_model_in_training(), with_figures=False)


def test_results_of_other_weights_are_no_result_of_these(tmp_path):
    facts = shine_on_simulated_features()
    write_model_card(facts, tmp_path)
    assert (tmp_path / EVAL_RESULTS_FILE).is_file()
    facts.results_step = facts.step - 500
    write_model_card(facts, tmp_path)
    assert not (tmp_path / EVAL_RESULTS_FILE).exists()
    card = (tmp_path / CARD_FILE).read_text()
    assert ModelCard(card).data.eval_results is None and "**Measured after step" in card


@pytest.mark.parametrize("are_results_given", [True, False])
def test_a_split_without_answers_is_not_scored_and_the_card_says_so(are_results_given):
    """It stood there with mIoU 0.00, and was reported to the Hub."""
    facts = shine_on_simulated_features()
    if are_results_given:
        facts.results["hidden_test"] = dict.fromkeys(("R1@0.5", "mIoU", "positive>level1"), 0.0)
    files = card_files(facts, with_figures=False)
    text = files[CARD_FILE].decode()
    assert "Not scored, since its queries have no annotated moments: `hidden_test`." in text
    assert "hidden_test" not in str(ModelCard(text).data.eval_results) + files[EVAL_RESULTS_FILE].decode()
    assert "| hidden_test (simulated) |" not in text
    facts.results = {}
    assert "`hidden_test`.\n\nNothing else was measured." in render_model_card(facts)


def test_annotated_queries_are_counted():
    splits = {"train": rows(relevant_windows=[[[0.0, 1.0]], []]), "hidden": rows(relevant_windows=[[], []])}
    facts = describe_data(DataArguments(dataset="charades_cg"), splits)
    assert [facts.splits[name]["annotated"] for name in ("train", "hidden")] == [1, 0]


def test_negatives_are_named_only_where_they_were_learned_from():
    facts = shine_on_simulated_features()
    assert "| hard negatives |" in render_model_card(facts) and "by a word or two" in render_model_card(facts)
    facts.ranking = ["coarse"]
    assert "hard negatives |" not in render_model_card(facts) and "by a word or two" not in render_model_card(facts)


def test_losses_on_hard_negatives_beyond_the_paper_are_named():
    without = base_model_in_training()
    with_losses = dataclasses.replace(without, negative_losses=("decoder loss", "contrast"))
    assert "its base loss only" in render_model_card(without) and "| hard negatives |" not in render_model_card(
        without
    )
    card = render_model_card(with_losses)
    assert "# Moment-DETR with hard negatives on" in card and "its base loss only" not in card
    assert "through the decoder loss and the contrast." in card and "| hard negatives | `train.jsonl` |" in card


def test_figures_are_drawn_and_named_only_where_there_is_something_to_draw(tmp_path):
    facts = shine_on_simulated_features()
    write_model_card(facts, tmp_path)
    text = (tmp_path / CARD_FILE).read_text()
    assert set(re.findall(r"\((figures/.*?\.png)\)", text)) == set(ALL_FIGURES)
    for name in ALL_FIGURES:
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert pixels.shape[1] > 500 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    facts.example = None
    facts.log_history = []
    assert {name for name in card_files(facts) if name.startswith("figures")} == {"figures/saliency_hierarchy.png"}


@pytest.mark.parametrize(
    ("video_encoder", "text_encoder", "count"),
    [("pixels:size=2,frames=2", "words:dim=16", 2), ("i3d:", "words:dim=16", 2), ("i3d:", "npz:", 1)],
)
def test_the_examples_of_use_run(video_encoder, text_encoder, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model(
        "moment_detr", video_dim=16, text_dim=16, clip_length=1.0, video_encoder=video_encoder, text_encoder=text_encoder,
    )  # fmt: skip
    facts = base_model_in_training()
    facts.name, facts.config = "published", model.config.to_dict()
    model.save_pretrained("published")
    MomentRetrievalProcessor.from_config(model.config).save_pretrained("published")
    write_model_card(facts, "published")
    rng = np.random.default_rng(0)
    write_video(tmp_path / "video.mp4", rng.integers(0, 255, (16, 24, 32, 3), dtype=np.uint8))
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "published" / CARD_FILE).read_text(), re.S)
    assert len(blocks) == count
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(block, {})
        assert "start" in printed.getvalue()


# ---- facts -----------------------------------------------------------------------------------------------------------


def rows(**columns):
    defaults = {"qid": ["a", "b"], "vid": ["v", "v"], "query": ["x", "y"], "duration": [1.0, 2.0]}
    return Dataset.from_dict(defaults | columns)


def test_the_fingerprint_changes_with_what_is_learned_and_with_nothing_else(tmp_path):
    def fingerprint(**columns):
        facts = describe_data(DataArguments(dataset="charades_cg"), {"train": rows(**columns)})
        return facts.splits["train"]["fingerprint"]

    assert fingerprint() == fingerprint() == fingerprint(annotation_flags=[["f"], []])
    assert fingerprint() != fingerprint(query=["x", "z"])
    assert fingerprint(negative_queries=[["n"], []]) != fingerprint(negative_queries=[["m"], []])


def test_files_of_this_machine_are_named_by_their_last_part(tmp_path):
    files = [tmp_path / f"mine_{split}.jsonl" for split in ("train", "test")]
    args = DataArguments(
        dataset=f"train={files[0]},test={files[1]}", negatives=str(tmp_path / "written.parquet"), video_features=["simulated:"],
    )  # fmt: skip
    facts = describe_data(args, {"train": rows()})
    assert (facts.name, facts.negatives, facts.hub_id, facts.is_simulated) == ("mine", "written.parquet", None, True)
    settings = {
        "negatives": f"{tmp_path}/a.parquet",
        "encoder": f"clip:{tmp_path}/weights,frames=2",
        "logging_dir": f"{tmp_path}/logs/",
        "kept": 1,
        "off": False,
    }
    public = public_settings(settings, {"kept": 1})
    assert public == {"negatives": "a.parquet", "encoder": "clip:weights,frames=2", "logging_dir": "logs"}
    assert str(tmp_path) not in json.dumps([vars(facts), public])
