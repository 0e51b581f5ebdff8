import logging

import numpy as np
import pytest
from datasets import Dataset

from shine_hf import QDDetrConfig
from shine_hf.data.annotations import read_annotations
from shine_hf.data.arguments import DataArguments
from shine_hf.data.loading import load_splits
from shine_hf.data.selection import split_validation, training_rows
from shine_hf.data.stores import text_features_of, text_source, video_store
from shine_hf.schema import FEATURES

from ..made_up import write_charades_cg
from .made_up import make_row, make_rows, write_compositional_files, write_jsonl


def dataset(rows):
    return Dataset.from_list(rows, features=FEATURES)


def test_original_files_are_loaded(tmp_path):
    write_compositional_files(tmp_path)
    splits = load_splits(DataArguments(dataset="charades_cg", data_dir=str(tmp_path), negatives="none"))
    assert list(splits) == ["train", "test_trivial", "novel_composition", "novel_word"]
    assert all(rows.features == FEATURES for rows in splits.values())


def test_jsonl_files_are_loaded(tmp_path):
    train, test = (
        write_jsonl(tmp_path / "train.jsonl", make_rows(4)),
        write_jsonl(tmp_path / "test.jsonl", make_rows(2)),
    )
    splits = load_splits(DataArguments(dataset=f"train={train},val={test}"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4, "validation": 2}
    assert list(load_splits(DataArguments(dataset=str(test)))) == ["test"]
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        load_splits(DataArguments(dataset=str(tmp_path / "gone.jsonl")))


def test_required_columns_are_enough(tmp_path):
    required = ("qid", "vid", "query", "duration", "relevant_windows")
    rows = [{name: row[name] for name in required} for row in make_rows(4)]
    (tmp_path / "mine").mkdir()
    Dataset.from_list(rows).to_parquet(str(tmp_path / "mine" / "train.parquet"))
    splits = load_splits(DataArguments(dataset=str(tmp_path / "mine")))
    assert set(splits["train"].column_names) == set(FEATURES) and splits["train"]["negative_queries"] == [[]] * 4
    negatives = [{"qid": row["qid"], "query": row["query"], "negative_queries": ["a cat sleeps"]} for row in rows[:3]]
    file = write_jsonl(tmp_path / "negatives.jsonl", negatives)
    splits = load_splits(DataArguments(dataset=str(tmp_path / "mine"), negatives=str(file)))
    assert splits["train"]["negative_queries"] == [["a cat sleeps"]] * 3 + [[]]


def test_negatives_are_matched_by_sentence_when_files_reuse_qids(tmp_path):
    numbered = {
        name: write_jsonl(tmp_path / f"{name}.jsonl", [make_row(0, qid="1", query=query), make_row(1, qid="2")])
        for name, query in (("test", "a person sits"), ("train", "a person opens a door"))
    }
    spec = ",".join(f"{name}={path}" for name, path in numbered.items())
    negatives = [{"qid": "1", "query": "a person opens a door", "negative_queries": ["a cat opens a door"]}]
    file = write_jsonl(tmp_path / "negatives.jsonl", negatives)
    splits = load_splits(DataArguments(dataset=spec, negatives=str(file)))
    assert splits["train"]["negative_queries"][0] == ["a cat opens a door"]
    assert splits["test"]["negative_queries"][0] == make_row(0)["negative_queries"]


def test_jsonl_files_load_without_negatives_or_with_generated_ones(tmp_path):
    rows = [make_row(i, saliency_scores=[[1, 2, 3]], relevant_clip_ids=[0]) for i in range(4)]
    spec = f"train={write_jsonl(tmp_path / 'train.jsonl', rows)}"
    without = load_splits(DataArguments(dataset=spec, negatives="none"))["train"]
    assert without["negative_queries"] == [[]] * 4 and without["negative_flags"] == [[]] * 4
    generated = load_splits(DataArguments(dataset=spec, negatives="random"))["train"]
    assert all(len(negatives) == 3 for negatives in generated["negative_queries"])
    assert generated["saliency_scores"] == [[[1, 2, 3]]] * 4
    with pytest.raises(ValueError, match="no split train"):
        load_splits(DataArguments(dataset=str(tmp_path / "train.jsonl"), negatives="random"))


def test_trained_model_keeps_its_text_encoder(caplog):
    model = QDDetrConfig(text_encoder="words:dim=64")
    assert text_features_of(model) == "words:dim=64" and text_features_of(model, "words:dim=64") == "words:dim=64"
    assert text_features_of(QDDetrConfig(text_encoder="words:dim=64,seed=0"), "words:dim=64") == "words:dim=64"
    assert not caplog.records
    assert text_features_of(model, "words:dim=32") == "words:dim=32"
    assert "trained with the text features words:dim=64, but is used with words:dim=32" in caplog.text
    with pytest.raises(ValueError, match=r"store \(npz:\): pass them with --text_features"):
        text_features_of(QDDetrConfig(text_encoder="npz:"))


def test_evaluation_limit_leaves_training_rows_complete(tmp_path):
    train, test = (
        write_jsonl(tmp_path / "train.jsonl", make_rows(6)),
        write_jsonl(tmp_path / "test.jsonl", make_rows(6)),
    )
    splits = load_splits(DataArguments(dataset=f"train={train},test={test}", max_eval_samples=2))
    assert len(splits["train"]) == 6 and splits["test"]["qid"] == ["video0_train_0", "video0_train_1"]


def test_missing_dataset_error_says_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"shine/charades-cg-negatives.*--data_dir"):
        load_splits(DataArguments(dataset="charades_cg"))


def test_untrainable_rows_are_dropped_with_a_warning(caplog):
    rows = [
        make_row(0),
        make_row(1, relevant_windows=[[4.0, 4.0]]),
        make_row(2, relevant_windows=[[5.0, 3.0]]),
        make_row(3, relevant_windows=[[99.0, 100.0]]),
        make_row(4, relevant_windows=[[3.0, 99.0]]),
    ]
    with caplog.at_level(logging.WARNING):
        kept = training_rows(dataset(rows))
    assert kept["qid"] == ["video0_train_0", "video2_train_4"]
    assert "3 of 5 training rows are left out" in caplog.text


def test_validation_split_is_made_by_video():
    rows = dataset(make_rows(40))
    train, validation = split_validation(rows, 0.25, seed=0)
    assert len(set(validation["vid"])) == 5 and len(train) + len(validation) == 40
    assert not set(train["vid"]) & set(validation["vid"])
    # The split depends on the seed, not on the order of the rows.
    backwards = split_validation(rows.select(range(39, -1, -1)), 0.25, seed=0)[1]
    assert set(backwards["vid"]) == set(validation["vid"]) != set(split_validation(rows, 0.25, seed=1)[1]["vid"])
    for fraction in (0, 1, 1.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split_validation(rows, fraction)
    with pytest.raises(ValueError, match="cannot hold out"):
        split_validation(rows.select(range(2)), 0.5)


def test_video_features_must_be_named(tmp_path):
    splits = {"train": dataset(make_rows(4)), "test": dataset([make_row(9, vid="other")])}
    with pytest.raises(ValueError, match=r"no video features given.*simulated:"):
        video_store(DataArguments(), splits, 0.5)
    store = video_store(DataArguments(video_features=["simulated:dim=8", "simulated:dim=4,seed=1"]), splits, 0.5)
    assert store.dim == 12 and "other" in store and "video0" in store


def test_text_features_take_options():
    assert text_source(DataArguments(text_features="words:dim=24")).dim == 24
    with pytest.raises(ValueError, match="eval_during_training"):
        DataArguments(eval_during_training="test")


def test_dropped_rows_of_the_real_files_match_the_known_count(shared, caplog):
    train = read_annotations(shared / "data" / "activitynet_cg" / "train.json", "train").to_list()
    with caplog.at_level(logging.WARNING):
        kept = training_rows(dataset(train))
    assert len(kept) == 36720
    left_out = {row["vid"] for row in train if {"window_empty", "window_reversed"} & set(row["annotation_flags"])}
    assert left_out == {"v_N7ppHQNikv8", "v_4rKTw99bM8g", "v_0bosp4-pyTM", "v_rhOtqArO-3Y"}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Write a folder in the published form: one Parquet file per split."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf-datasets")
    folder = tmp_path / "published"
    folder.mkdir()
    rows = make_rows(6)
    for split, chosen in (("train", rows[:4]), ("test", rows[4:])):
        dataset(chosen).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_published_form_is_loaded(published):
    splits = load_splits(DataArguments(dataset=str(published)))
    assert {name: rows.to_list() for name, rows in splits.items()} == {"train": make_rows(4), "test": make_rows(6)[4:]}
    with pytest.raises(ValueError, match="'gpt-9'"):
        load_splits(DataArguments(dataset=str(published), negatives="gpt-9"))


def test_published_form_can_be_combined_with_custom_negatives(published, tmp_path):
    row = make_row(4)
    own = {"qid": row["qid"], "query": row["query"], "masked_queries": ["m"], "negative_queries": ["n"]}
    file = write_jsonl(tmp_path / "own.jsonl", [own])
    splits = load_splits(DataArguments(dataset=str(published), negatives=str(file)))
    assert splits["test"][0]["negative_queries"] == ["n"] and splits["test"][0]["negative_flags"] == [[]]
    assert splits["train"].to_list() == make_rows(4)


def test_published_rows_are_checked(published):
    for change, message in (({"duration": 0.0}, r"train, row 1 \(qid"), ({"query": ""}, "field query")):
        rows = make_rows(4)
        rows[1] |= change
        dataset(rows).to_parquet(published / "train-00000-of-00001.parquet")
        with pytest.raises(ValueError, match=message):
            load_splits(DataArguments(dataset=str(published)))
    for split in ("train", "test"):
        dataset(make_rows(4)).remove_columns("duration").to_parquet(published / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="no field duration"):
        load_splits(DataArguments(dataset=str(published)))


def test_features_with_another_clip_length_are_rejected(tmp_path):
    np.savez(tmp_path / "v.npz", features=np.ones((2, 3), np.float32))
    (tmp_path / "features.json").write_text('{"encoder": "pixels:", "clip_length": 1.0}')
    args, splits = DataArguments(video_features=[f"npz:{tmp_path}"]), {"test": Dataset.from_list([make_row(0)])}
    assert video_store(args, splits, 1.0).encoder == "pixels:"
    with pytest.raises(ValueError, match=r"clips of 1\.0 s, but clip_length is 0\.5"):
        video_store(args, splits, 0.5)


def test_modelfree_negatives_are_generated_on_load(tmp_path):
    write_charades_cg(tmp_path)
    splits = load_splits(DataArguments(dataset="charades_cg", data_dir=str(tmp_path), negatives="random"))
    for row in splits["train"]:
        assert (
            len(row["negative_queries"]) == len(row["negative_flags"]) == 3
            and row["query"] not in row["negative_queries"]
        )
    assert splits["train"].features == splits["novel_word"].features and not any(
        splits["novel_word"]["negative_queries"]
    )
    none = load_splits(DataArguments(dataset="charades_cg", data_dir=str(tmp_path), negatives="none"))
    assert not any(none["train"]["negative_queries"])


def test_split_column_assigns_rows_to_splits(tmp_path):
    rows = [make_row(0, split="train"), make_row(1, split="val"), make_row(2, split="train")]
    splits = load_splits(DataArguments(dataset=str(write_jsonl(tmp_path / "all.jsonl", rows))))
    assert {name: len(found) for name, found in splits.items()} == {"train": 2, "validation": 1}


@pytest.mark.parametrize(
    ("split", "found"), [(None, "no field split"), ("", 'found ""'), (["train"], "found"), (1, "found 1")]
)
def test_rows_without_a_valid_split_name_are_rejected(tmp_path, split, found):
    rows = [make_row(0, split="train"), make_row(1, split=split)]
    with pytest.raises(ValueError, match=rf"all\.jsonl, line 2.*field split.*{found}|line 2: {found}"):
        load_splits(DataArguments(dataset=str(write_jsonl(tmp_path / "all.jsonl", rows))))


@pytest.mark.parametrize("folder", ["runs/seed=1", "a,b", "lr=0.1,seed=1", "train=1,test=2"])
def test_paths_may_contain_commas_and_equals_signs(tmp_path, folder):
    train, test = (write_jsonl(tmp_path / folder / f"{name}.jsonl", make_rows(2)) for name in ("train", "test"))
    for dataset in (f"train={train},test={test}", str(tmp_path / folder)):
        assert set(load_splits(DataArguments(dataset=dataset))) == {"train", "test"}
    assert set(load_splits(DataArguments(dataset=str(train)))) == {"test"}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("", "--dataset is empty"),
        ("a.jsonl,b.jsonl", "several files need the names of their splits"),
        ("train=a.jsonl,train=b.jsonl", "the split train is given twice"),
        ("val=a.jsonl,dev=b.jsonl", "the split validation has two files"),
        ("train=", "neither a file, a folder, a Hub name"),
        ("charades", "nor one of charades_cg"),
        ("train=gone.jsonl", r"no file gone\.jsonl \(nor gone\.jsonl\.gz\)"),
    ],
)
def test_unreadable_datasets_are_rejected(tmp_path, monkeypatch, dataset, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", make_rows(2))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_splits(DataArguments(dataset=dataset))


@pytest.mark.parametrize("specs, expected", [(["scenes:"], True), (["npz:X", "npz:Y+simulated:"], True), (["X"], False), ([], False)])  # fmt: skip
def test_arguments_know_whether_any_features_are_simulated(specs, expected):
    assert DataArguments(video_features=specs).is_simulated is expected
