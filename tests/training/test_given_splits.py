"""User-defined splits: a validation split, splits without annotations, unknown names."""

import json

import pytest
import torch

from shine_hf.cli import main
from shine_hf.training.recipe import parse_recipe
from shine_hf.training.run import build_trainer, run_recipe

from ..data.made_up import make_row, write_jsonl
from .test_run import SMALL


@pytest.fixture
def files(tmp_path):
    def rows(first, count, **changes):
        return [
            make_row(first + index, qid=str(first + index), vid=f"v{first + index}", **changes)
            for index in range(count)
        ]

    return {
        "train": write_jsonl(tmp_path / "train.jsonl", rows(0, 10)),
        "validation": write_jsonl(tmp_path / "held=out,1" / "validation.jsonl", rows(20, 4)),
        "test": write_jsonl(tmp_path / "test.jsonl", rows(30, 4, relevant_windows=[])),
    }


def recipe(tmp_path, dataset, *more):
    steps = ["--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "no"]
    return parse_recipe(
        [
            "--config",
            "charades_cg_qd_detr_shine",
            "--dataset",
            dataset,
            "--output_dir",
            str(tmp_path / "out"),
            *SMALL,
            *steps,
            *more,
        ]
    )


def spec(files, **names):
    return ",".join(f"{names.get(split, split)}={path}" for split, path in files.items())


@pytest.mark.parametrize("name", ["validation", "val", "dev", "valid"])
def test_given_validation_split_leaves_train_complete(tmp_path, files, name):
    trainer, splits = build_trainer(recipe(tmp_path, spec(files, validation=name)))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 10, "validation": 4, "test": 4}
    assert len(trainer.train_dataset) == 10 and trainer.eval_dataset["validation"]["qid"][0] == "20"


def test_split_without_windows_is_predicted_and_not_scored(tmp_path, files, capsys):
    results = run_recipe(recipe(tmp_path, spec(files), "--eval_during_training", "all"))
    assert set(results) == {"validation"}
    printed = capsys.readouterr().out
    assert "test has no windows, so it is not scored" in printed and "\ntest  " not in printed
    predictions = [
        json.loads(line) for line in (tmp_path / "out" / "predictions" / "test.jsonl").read_text().splitlines()
    ]
    assert [row["qid"] for row in predictions] == ["30", "31", "32", "33"]
    assert all(row["pred_relevant_windows"] and row["pred_saliency_scores"] for row in predictions)
    saved = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert (
        not [name for name in saved if name.startswith("test_")]
        and not (tmp_path / "out" / "test_results.json").exists()
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not scored, since its queries have no annotated moments: `test`." in card


def test_rows_without_windows_do_not_count_as_misses(tmp_path, files):
    answered = [make_row(40 + index, qid=str(40 + index), vid=f"v{40 + index}") for index in range(3)]
    rows = [*answered, make_row(50, qid="50", vid="v50", relevant_windows=[])]
    figures = []
    for name, content in (("some", rows), ("all", answered)):
        path = write_jsonl(tmp_path / f"{name}.jsonl", content)
        torch.manual_seed(1)
        trainer, splits = build_trainer(recipe(tmp_path, f"train={files['train']},test={path}"))
        figures.append(trainer.evaluate(splits["test"], metric_key_prefix="test"))
    assert figures[0]["test_mIoU"] == pytest.approx(figures[1]["test_mIoU"], abs=1e-4) and figures[0]["test_mIoU"] > 0


def test_validation_split_without_windows_cannot_select_a_model(tmp_path, files):
    files = {"train": files["train"], "validation": files["test"]}
    with pytest.raises(ValueError, match="the validation split has no windows"):
        build_trainer(recipe(tmp_path, spec(files)))


def test_unknown_evaluation_splits_are_rejected(tmp_path, files):
    with pytest.raises(ValueError, match="--eval_splits: no split tset; available: validation, test"):
        build_trainer(recipe(tmp_path, spec(files), "--eval_splits", "tset"))
    assert set(run_recipe(recipe(tmp_path, spec(files), "--eval_splits", "val"))) == {"validation"}


def test_training_requires_a_train_split(tmp_path, files, capsys):
    command = ["train", "--config", "charades_cg_qd_detr_shine", "--dataset", str(files["train"]), *SMALL]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "has no split train to train on, only test" in error and error.count("\n") == 1


def test_split_column_defines_the_splits(tmp_path):
    rows = [
        make_row(index, qid=str(index), vid=f"v{index}", split=split)
        for index, split in enumerate(["train"] * 4 + ["dev"] * 2 + ["test"] * 2)
    ]
    path = write_jsonl(tmp_path / "all.jsonl", rows)
    _, splits = build_trainer(recipe(tmp_path, str(path)))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4, "validation": 2, "test": 2}


def test_predict_accepts_split_aliases_and_rejects_unknown_splits(tmp_path, files, capsys):
    run_recipe(recipe(tmp_path, spec(files), "--eval_splits", "test"))
    command = [
        "predict",
        "--model",
        str(tmp_path / "out"),
        "--dataset",
        spec(files),
        "--video-features",
        "simulated:dim=16,noise=0.5",
    ]
    assert main([*command, "--split", "val", "--output", str(tmp_path / "found.jsonl")]) == 0
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 4
    assert main([*command, "--split", "tset"]) == 2
    assert "--split: no split 'tset'; there are train, validation, test" in capsys.readouterr().err
