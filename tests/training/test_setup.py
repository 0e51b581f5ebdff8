"""Training in ten lines: from names, any kind of rows, and features to a trained model."""

import json

import numpy as np
import pytest
import torch
from datasets import load_dataset
from torch import nn
from transformers import AutoModel, TrainingArguments

from shine_hf import QDDetrConfig, QDDetrForMomentRetrieval, ShineTrainer, ShineTrainingArguments
from shine_hf.data.annotations import read_original

from ..made_up import write_charades_cg

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_queries": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write rows as JSON lines and a feature file per video, as users have them."""
    folder = tmp_path_factory.mktemp("user")
    splits = read_original("charades_cg", write_charades_cg(folder / "original"))
    (folder / "FEATURES").mkdir()
    for name, rows in splits.items():
        columns = ["qid", "vid", "query", "duration", "relevant_windows", "negative_queries"]
        rows = rows.select_columns(columns if name == "train" else columns[:-1])
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for vid, duration in zip(rows["vid"], rows["duration"]):
            features = np.random.default_rng(len(vid)).normal(size=(round(duration / 0.5), 16)).astype(np.float32)
            np.savez(folder / "FEATURES" / f"{vid}.npz", features=features)
    (folder / "FEATURES" / "features.json").write_text(json.dumps({"encoder": "pixels:size=4", "clip_length": 0.5}))
    return folder


def rows_of(folder, split="train", **options):
    return load_dataset("json", data_files=str(folder / f"{split}.jsonl"), cache_dir=str(folder / "cache"), **options)[
        "train"
    ]


def arguments(output, kind=TrainingArguments, **more):
    settings = dict(output_dir=str(output), max_steps=3, per_device_train_batch_size=4, logging_steps=1, save_strategy="no",
                    report_to="none", disable_tqdm=True, use_cpu=True)  # fmt: skip
    return kind(**settings | more)


def tiny() -> QDDetrForMomentRetrieval:
    torch.manual_seed(0)
    return QDDetrForMomentRetrieval(QDDetrConfig(video_dim=16, text_dim=12, clip_length=0.5, **SMALL))


class Rows(torch.utils.data.Dataset):
    """A torch dataset with tensors and arrays as values."""

    def __init__(self, rows):
        self.rows = rows.to_list()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return row | {"duration": torch.tensor(row["duration"]), "relevant_windows": np.array(row["relevant_windows"])}


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_model_name_arguments_rows_and_features_are_enough(folder, tmp_path):
    trainer = ShineTrainer(
        model="qd_detr",
        args=arguments(tmp_path / "trained", max_steps=1, learning_rate=1e-3),
        train_dataset=rows_of(folder),
        eval_dataset=rows_of(folder, "novel_word"),
        video_features=str(folder / "FEATURES"),
        text_features="words:dim=12",
    )
    trainer.train()
    assert len(losses(trainer)) == 1 and {"eval_mIoU", "eval_loss"} <= trainer.evaluate().keys()
    assert trainer.args.learning_rate == 1e-3 and trainer.args.coarse_weight == 1.0
    trainer.save_model()
    config = AutoModel.from_pretrained(tmp_path / "trained").config
    assert (config.video_dim, config.text_dim, config.clip_length) == (16, 12, 0.5)
    assert (config.video_encoder, config.text_encoder) == ("pixels:size=4", "words:dim=12,seed=0")
    # A trained model can be named by its folder and records its text features.
    again = ShineTrainer(
        model=str(tmp_path / "trained"),
        args=arguments(tmp_path / "again", max_steps=1),
        train_dataset=rows_of(folder),
        video_features=str(folder / "FEATURES"),
    )
    again.train()
    assert again.data_collator.text_features.public_spec == "words:dim=12,seed=0"


@pytest.mark.parametrize("kind", ["map", "torch format", "numpy format", "torch dataset"])
def test_all_kinds_of_rows_train_the_same(folder, tmp_path, kind):
    rows = rows_of(folder)
    rows = {
        "map": lambda: rows,
        "torch format": lambda: rows.with_format("torch"),
        "numpy format": lambda: rows.with_format("numpy"),
        "torch dataset": lambda: Rows(rows),
    }[kind]()
    trainer = ShineTrainer(
        tiny(),
        arguments(tmp_path),
        train_dataset=rows,
        video_features=str(folder / "FEATURES"),
        text_features="words:dim=12",
    )
    trainer.train()
    expected = ShineTrainer(
        tiny(),
        arguments(tmp_path),
        train_dataset=rows_of(folder),
        video_features=str(folder / "FEATURES"),
        text_features="words:dim=12",
    )
    expected.train()
    assert losses(trainer) == losses(expected) and len(losses(trainer)) == 3


def test_streaming_datasets_can_be_trained_on_and_evaluated(folder, tmp_path):
    stream = rows_of(folder, streaming=True)
    trainer = ShineTrainer(
        tiny(),
        arguments(
            tmp_path,
            max_steps=8,
            dataloader_num_workers=1,
            eval_strategy="steps",
            eval_steps=8,
            metric_for_best_model="eval_mIoU",
        ),
        train_dataset=stream.shuffle(seed=1, buffer_size=8),
        eval_dataset=rows_of(folder, "novel_word", streaming=True),
        video_features=str(folder / "FEATURES"),
        text_features="words:dim=12",
    )
    trainer.train()
    # 24 rows in batches of 4: the stream restarts after 6 steps.
    assert len(losses(trainer)) == 8 and all(entry > 0 for entry in losses(trainer))
    expected = trainer.evaluate(rows_of(folder, "novel_word"), metric_key_prefix="rows")
    assert trainer.evaluate()["eval_mIoU"] == pytest.approx(expected["rows_mIoU"])


def test_several_evaluation_sets_and_custom_features_work(folder, tmp_path):
    """Any mapping can provide clip features, and any function token features."""
    videos = {path.stem: np.load(path)["features"] for path in (folder / "FEATURES").glob("*.npz")}
    trainer = ShineTrainer(
        tiny(),
        arguments(
            tmp_path, ShineTrainingArguments, eval_strategy="steps", eval_steps=3, metric_for_best_model="word_mIoU"
        ),
        train_dataset=rows_of(folder),
        eval_dataset={
            "word": rows_of(folder, "novel_word"),
            "trivial": rows_of(folder, "test_trivial").with_format("torch"),
        },
        video_features=videos,
        text_features=lambda query, qid, level: np.full((3, 12), len(query), dtype=np.float32),
    )
    trainer.train()
    assert {"eval_word_mIoU", "eval_trivial_mIoU"} <= trainer.evaluate().keys()
    predictions = trainer.predict(rows_of(folder, "novel_word").with_format("torch"))
    assert len(predictions.predictions[0]) == 6


def test_hyperparameter_search_creates_the_model_with_model_init(folder, tmp_path):
    trainer = ShineTrainer(
        model_init=tiny,
        args=arguments(tmp_path, ShineTrainingArguments, fine_weight=0.0),
        train_dataset=rows_of(folder),
        video_features=str(folder / "FEATURES"),
        text_features="words:dim=12",
    )
    trainer.args.fine_weight = 1.0  # What a trial does.
    trainer.train()
    assert "loss_fine" in next(entry for entry in trainer.state.log_history if "loss" in entry)


def test_missing_or_mismatched_arguments_are_rejected(folder, tmp_path):
    features = {"video_features": str(folder / "FEATURES"), "text_features": "words:dim=12"}
    wrong = [
        (dict(model="qd_detr", args=None), "args are required"),
        (dict(model="qd_detr", video_features=None), "video_features are required"),
        (dict(model=None), "model is required"),
        (dict(model="qd_detr", train_dataset=load_dataset("json", data_files={"a": str(folder / "train.jsonl")}, cache_dir=str(folder / "cache"))),
         r"train_dataset is a dict of splits \(a\): pass one of them, e.g. splits\['a'\]"),
        (dict(model="qd_detr", train_dataset=rows_of(folder).remove_columns("vid")), "train_dataset, row 0.*vid"),
        (dict(model=QDDetrForMomentRetrieval(QDDetrConfig(video_dim=16, text_dim=12, clip_length=1.0, **SMALL))), "clip_length"),
        (dict(model="qd_detr", video_features=str(folder / "nothing")), "nothing"),
    ]  # fmt: skip
    for given, message in wrong:
        given = {"args": arguments(tmp_path), "train_dataset": rows_of(folder)} | features | given
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            ShineTrainer(**given)
    missing = rows_of(folder).map(lambda row: row | {"vid": "UNSEEN"})
    with pytest.raises(ValueError, match="1 of 1 videos have no features"):
        ShineTrainer("qd_detr", arguments(tmp_path), train_dataset=missing, **features)


def test_processor_is_built_from_the_features_for_a_model_without_config(folder, tmp_path):
    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(16, 1)

        def forward(self, video_features, negative_text_features, **inputs):
            scores = self.score(video_features).squeeze(-1)
            count = negative_text_features.shape[1]
            return {
                "pred_spans": video_features.new_full((len(scores), 1, 2), 0.5),
                "saliency_scores": scores,
                "negative_saliency_scores": scores.unsqueeze(1).expand(-1, count, -1) * 0.5,
            }

    trainer = ShineTrainer(
        Toy(),
        arguments(tmp_path),
        train_dataset=rows_of(folder),
        video_features=str(folder / "FEATURES"),
        text_features="words:dim=12",
    )
    trainer.train()
    assert trainer.processing_class.clip_length == 0.5 and len(losses(trainer)) == 3
