"""ShineTrainer with a foreign model, and its behavior when training goes wrong."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS
from transformers.trainer_utils import HPSearchBackend

from shine_hf import (
    DataCollatorForMomentRetrieval,
    MomentRetrievalProcessor,
    QDDetrConfig,
    QDDetrForMomentRetrieval,
    ShineLoss,
    ShineTrainer,
    ShineTrainingArguments,
)
from shine_hf.data.annotations import read_original
from shine_hf.features.base import FeatureStore
from shine_hf.features.text import TextFeatures
from shine_hf.modeling import modeling_moment_retrieval
from shine_hf.training import cpu_kernels
from shine_hf.training.threads import AdaptThreads

from ..made_up import write_charades_cg


class Toy(nn.Module):
    """A minimal model that returns only saliency scores and spans."""

    def __init__(self):
        super().__init__()
        self.clip, self.word, self.span = nn.Linear(16, 8), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, video_features, text_features, negative_text_features, **kwargs):
        clips = self.clip(video_features)
        score = lambda text: (clips.unsqueeze(1) @ self.word(text).mean(-2).unsqueeze(-1)).squeeze(-1)  # noqa: E731
        return {
            "pred_spans": self.span(clips.mean(1, keepdim=True)).sigmoid(),
            "saliency_scores": score(text_features.unsqueeze(1)).squeeze(1),
            "negative_saliency_scores": score(negative_text_features),
        }


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return read_original("charades_cg", write_charades_cg(tmp_path_factory.mktemp("data")))


def make_trainer(splits, output, model=None, **settings):
    rows = [row for split in splits.values() for row in split]
    collator = DataCollatorForMomentRetrieval(
        MomentRetrievalProcessor(),
        FeatureStore.from_spec("simulated:dim=16,noise=0.1", rows=rows),
        TextFeatures.from_spec("words:dim=12"),
        query_pool=splits["train"],
    )
    defaults = dict(output_dir=str(output), max_steps=40, per_device_train_batch_size=4, learning_rate=1e-2, max_grad_norm=1.0,
                    logging_steps=5, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True)  # fmt: skip
    return ShineTrainer(
        model=None if "model_init" in settings else model or Toy(),
        model_init=settings.pop("model_init", None),
        args=ShineTrainingArguments(**defaults | settings),
        data_collator=collator,
        train_dataset=splits["train"],
        eval_dataset={"validation": splits["train"].select(range(6))},
    )


def test_cpu_kernels_run_only_within_training_steps(splits, tmp_path, monkeypatch):
    """Models saved during training must not contain them either."""
    model, calls, training_of_calls = Toy(), [], []
    kernel = cpu_kernels._KERNELS[nn.Linear.forward]

    def spy(layer, states):
        calls.append(layer)
        training_of_calls.append(layer.training)
        return kernel(layer, states)

    def save(self, *args, **kwargs):
        assert not any("forward" in vars(module) for module in model.modules())

    monkeypatch.setitem(cpu_kernels._KERNELS, nn.Linear.forward, spy)
    monkeypatch.setattr(ShineTrainer, "_save_checkpoint", save)
    settings = dict(max_steps=2, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1)
    trainer = make_trainer(splits, tmp_path, model, **settings)
    trainer.train()
    assert set(calls) == {model.clip, model.word, model.span}
    assert {True, False} == set(training_of_calls)
    calls.clear()
    row = torch.zeros(1, 3, 16), torch.zeros(1, 2, 12), torch.zeros(1, 1, 2, 12)
    model(*row)
    assert not calls


def test_toy_model_trains_unchanged(splits, tmp_path):
    trainer = make_trainer(splits, tmp_path, max_steps=80, learning_rate=3e-2)
    before = trainer.evaluate()
    trainer.train()
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(history[-3:]) < 0.9 * sum(history[:3])
    after = trainer.evaluate()
    assert after["eval_validation_chain"] > before["eval_validation_chain"]
    assert after["eval_validation_loss"] < before["eval_validation_loss"]


def test_inter_query_terms_ramp_up_to_their_weight(splits, tmp_path):
    settings = dict(max_steps=8, logging_steps=1, learning_rate=0.0, inter_margin=50.0, ranking_warmup_ratio=0.5)
    trainer = make_trainer(splits, tmp_path, **settings, save_strategy="steps", save_steps=2)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    shares = [
        (entry["loss"] - entry["loss_coarse_intra"]) / (entry["loss_coarse_inter"] + entry["loss_fine"])
        for entry in history
    ]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1], rel=1e-4)
    resumed = make_trainer(splits, tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    after = [entry["loss"] for entry in resumed.state.log_history if "loss" in entry]
    assert after == [entry["loss"] for entry in history]
    # Evaluation measures the full loss, however far the training is.
    early = make_trainer(splits, tmp_path / "early", ranking_warmup_ratio=1.0, inter_margin=50.0).evaluate()
    terms = sum(early[f"eval_validation_loss_{name}"] for name in ("coarse_intra", "coarse_inter", "fine"))
    assert early["eval_validation_loss"] == pytest.approx(terms, rel=1e-4)
    with pytest.raises(ValueError, match="ranking_warmup_ratio"):
        make_trainer(splits, tmp_path, ranking_warmup_ratio=1.5)


def test_best_model_is_kept_and_reloaded(splits, tmp_path):
    trainer = make_trainer(
        splits, tmp_path, max_steps=8, eval_strategy="steps", eval_steps=2, metric_for_best_model="validation_loss", greater_is_better=False,
        learning_rate=0.5,
    )  # fmt: skip
    trainer.train()
    curve = [entry["eval_validation_loss"] for entry in trainer.state.log_history if "eval_validation_loss" in entry]
    assert trainer.state.best_metric == min(curve) and (tmp_path / "best").is_dir()
    assert trainer.load_best_model()
    assert trainer.evaluate()["eval_validation_loss"] == pytest.approx(min(curve), rel=1e-5)


def test_saved_query_results_belong_to_their_query(splits, tmp_path):
    trainer = make_trainer(splits, tmp_path, per_device_eval_batch_size=1)  # The toy model also reads padding.
    rows = splits["train"]
    assert len(set(rows["duration"])) > 1
    trainer.evaluate(rows, metric_key_prefix="all")
    trainer.save_query_results("all", rows)
    saved = [json.loads(line) for line in (tmp_path / "queries" / "all.jsonl").read_text().splitlines()]
    assert [query["qid"] for query in saved] == rows["qid"]
    for index, query in enumerate(saved):
        single = trainer.evaluate(rows.select([index]), metric_key_prefix="single")
        assert 100 * query["iou"] == pytest.approx(single["single_mIoU"], abs=1e-3)


def test_predictions_follow_the_row_order(splits, tmp_path):
    """They are computed in another order: the longest videos first."""
    trainer = make_trainer(splits, tmp_path, per_device_eval_batch_size=1)  # The toy model also reads padding.
    rows = splits["train"].sort("duration")
    together = trainer.predict(rows)
    (moments, saliency), windows = together.predictions, together.label_ids
    for index in range(0, len(rows), 5):
        single = trainer.predict(rows.select([index]))
        assert moments[index] == pytest.approx(single.predictions[0][0])
        assert saliency[index, :2] == pytest.approx(single.predictions[1][0, :2], rel=1e-4, nan_ok=True)
        assert windows[index] == pytest.approx(single.label_ids[0])
        assert windows[index, 0] == pytest.approx(rows[index]["relevant_windows"][0])


def test_custom_metrics_get_the_row_order(splits, tmp_path):
    seen = []
    trainer = make_trainer(splits, tmp_path)
    rows = splits["train"].sort("duration")
    trainer.compute_metrics = trainer._in_callers_order(lambda prediction: seen.append(prediction.label_ids) or {})
    trainer.evaluate(rows)
    assert seen[0][:, 0] == pytest.approx(np.array([windows[0] for windows in rows["relevant_windows"]]))


def test_each_search_trial_trains_with_its_own_losses(splits, tmp_path, monkeypatch):
    """Use a search backend with two trials: one without the fine loss, one with twice its weight."""

    class TwoTrials:
        default_hp_space = None

        def ensure_available(self):
            pass

        def run(self, trainer, n_trials, direction, **kwargs):
            for number, params in enumerate(
                ({"fine_weight": 0.0, "coarse_weight": 1.0}, {"fine_weight": 2.0, "coarse_weight": 0.0})
            ):
                trial = SimpleNamespace(number=number, params=params)
                trainer.train(trial=trial)
                histories.append([entry for entry in trainer.state.log_history if "loss" in entry])

    histories = []
    # Without optuna there is no trial object that Trainer would accept.
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, TwoTrials)
    trainer = make_trainer(splits, tmp_path, model_init=Toy, max_steps=3, logging_steps=1)
    trainer.hyperparameter_search(hp_space=lambda trial: trial.params, backend="optuna", n_trials=2)
    coarse, fine = histories
    for entry in coarse:
        assert "loss_fine" not in entry
        assert entry["loss"] == pytest.approx(entry["loss_coarse_intra"] + entry["loss_coarse_inter"], rel=1e-4)
    for entry in fine:
        assert "loss_coarse_intra" not in entry and entry["loss"] == pytest.approx(2 * entry["loss_fine"], rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        ("validation_mIOU", {}),
        ("mIoU", {}),
        ("test_mIoU", {}),
        ("validation_level3>level4", {}),
        ("validation_loss_fine", {"fine_weight": 0.0}),
    ],
)
def test_unknown_selection_metric_is_rejected_before_training(splits, tmp_path, metric, settings):
    trainer = make_trainer(
        splits, tmp_path, eval_strategy="steps", eval_steps=40, metric_for_best_model=metric, **settings
    )
    with pytest.raises(
        ValueError, match=f"metric_for_best_model is '{metric}', which no evaluation .* available: .*validation_mIoU"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


def test_each_step_computes_loss_weights_and_counts_once(splits, tmp_path, monkeypatch):
    config = QDDetrConfig(video_dim=16, text_dim=12, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    model, calls = QDDetrForMomentRetrieval(config), Counter()
    for name in ("loss_counts", "weigh_losses"):
        original = getattr(model, name)
        monkeypatch.setattr(
            model,
            name,
            lambda *args, original=original, name=name, **kwargs: calls.update([name]) or original(*args, **kwargs),
        )
    for name in ("weigh_losses", "loss_counts"):
        original = getattr(modeling_moment_retrieval, name)
        monkeypatch.setattr(
            modeling_moment_retrieval,
            name,
            lambda *args, original=original, name=name: calls.update(["in " + name]) or original(*args),
        )
    counts = ShineLoss.counts
    monkeypatch.setattr(ShineLoss, "counts", lambda *args: calls.update(["ranking"]) or counts(*args))
    make_trainer(splits, tmp_path, model, max_steps=3).train()
    assert calls == {"loss_counts": 3, "weigh_losses": 3, "in weigh_losses": 3, "in loss_counts": 3, "ranking": 3}


def test_persistent_workers_switch_to_the_next_dataset(splits, tmp_path):
    trainer = make_trainer(splits, tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)
    for name in ("test_trivial", "novel_composition"):
        assert trainer.get_eval_dataloader(splits[name]).dataset is splits[name]


def test_card_shows_launcher_settings_and_no_partial_run_time(splits, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # What `accelerate launch --mixed_precision bf16` does.
    trainer = make_trainer(splits, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    environment = trainer.card.facts(trainer).environment
    assert environment["precision"] == "bfloat16" and "time of training" in environment
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    resumed = make_trainer(splits, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    environment = resumed.card.facts(resumed).environment
    assert environment["precision"] == "float32" and "time of training" not in environment


def test_card_names_the_losses_on_hard_negatives(splits, tmp_path):
    trainer = make_trainer(splits, tmp_path, coarse_weight=0.0, fine_weight=0.0, clip_contrast_weight=1.0)
    facts = trainer.card.facts(trainer)
    assert not facts.ranking and facts.negative_losses == ["contrast of query and negatives on each clip"]


def test_threads_are_adapted_during_training_only(splits, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, used, model = torch.get_num_threads(), [], Toy()
    model.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    torch.set_num_threads(4)
    try:
        trainer = make_trainer(splits, tmp_path, model, max_steps=20)
        trainer.train()
        # The first trial, after a few steps, is with more threads.
        assert used[0] == 2 and 4 in used and torch.get_num_threads() == 4
        assert not any(isinstance(each, AdaptThreads) for each in trainer.callback_handler.callbacks)
    finally:
        torch.set_num_threads(before)


def test_early_stopping_follows_its_own_metric(splits, tmp_path):
    trainer = make_trainer(
        splits, tmp_path, eval_strategy="steps", eval_steps=1, metric_for_best_model="validation_loss", greater_is_better=False,
        early_stopping_patience=2, learning_rate=0.0,
    )  # fmt: skip
    trainer.eval_dataset = {"validation": trainer.eval_dataset["validation"], "another": splits["novel_word"]}
    trainer.train()
    assert trainer.state.global_step == 3


def test_non_finite_loss_stops_training(splits, tmp_path):
    model = Toy()
    with torch.no_grad():
        model.clip.weight.fill_(float("nan"))
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan \(terms: loss_coarse_intra.*\) at step 5, first at step 1"
    ):
        # An evaluation in between does not reset where the problem started.
        make_trainer(splits, tmp_path, model, eval_strategy="steps", eval_steps=2).train()


def test_model_without_negative_scores_is_rejected(splits, tmp_path):
    model = Toy()
    forward = model.forward
    model.forward = lambda **inputs: {k: v for k, v in forward(**inputs).items() if "negative" not in k}
    with pytest.raises(ValueError, match="Toy returned no negative_saliency_scores"):
        make_trainer(splits, tmp_path, model).train()
    with pytest.raises(ValueError, match="Toy returned no loss"):
        make_trainer(splits, tmp_path, model, coarse_weight=0.0, fine_weight=0.0).train()


@pytest.mark.parametrize(
    "settings",
    [
        {"decoder_negative_weight": 1.0},
        {"decoder_negative_weight": 1.0, "decoder_negative_form": "ranking"},
        {"clip_contrast_weight": 1.0},
    ],
    ids=lambda settings: settings.get("decoder_negative_form", "-".join(settings)),
)
def test_losses_beyond_the_paper_train_every_parameter_and_are_logged(splits, tmp_path, settings):
    sizes = dict(video_dim=16, text_dim=12, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    model = QDDetrForMomentRetrieval(QDDetrConfig(**sizes, dropout=0.0, input_dropout=0.0))
    start = {name: value.clone() for name, value in model.named_parameters()}
    off = dict(coarse_weight=0.0, fine_weight=0.0, max_steps=60, weight_decay=0.0)
    trainer = make_trainer(splits, tmp_path, model, **off, **settings)
    term = "loss_clip_contrast" if "clip_contrast_weight" in settings else "loss_decoder_negative"
    before = trainer.evaluate()
    trainer.train()
    curve = [entry[term] for entry in trainer.state.log_history if term in entry]
    assert len(curve) == 12 and sum(curve[-3:]) < 0.9 * sum(curve[:3])
    assert trainer.evaluate()[f"eval_validation_{term}"] < before[f"eval_validation_{term}"]
    still = [name for name, value in model.named_parameters() if torch.equal(value, start[name])]
    # See test_every_parameter_is_trained of the models.
    cannot = ("k_proj.bias", "layers.0.self_attention", "layers.0.cross_attention.q_content")
    assert [name for name in still if not any(part in name for part in cannot)] == []


def test_decoder_negatives_need_a_model_with_class_scores(splits, tmp_path):
    with pytest.raises(ValueError, match="decoder_negative_weight needs a model that returns logits and negative_log"):
        make_trainer(splits, tmp_path, decoder_negative_weight=1.0).train()


def test_learning_rate_drops_as_in_the_public_code(splits, tmp_path):
    trainer = make_trainer(splits, tmp_path, max_steps=14, lr_drop_epoch=2, logging_steps=1, learning_rate=1e-3)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    # 24 rows in batches of 4: 6 steps per epoch; the logged rate is that of the last step.
    assert rates == pytest.approx([1e-3] * 12 + [1e-4] * 2) or rates == pytest.approx([1e-3] * 11 + [1e-4] * 3)


def test_no_token_reaches_the_saved_arguments(splits, tmp_path):
    trainer = make_trainer(splits, tmp_path, hub_token="hf_secret")
    trainer.save_model(str(tmp_path / "model"))
    text = (tmp_path / "model" / "training_args.json").read_text()
    assert json.loads(text)["coarse_weight"] == 1.0 and "hf_secret" not in text and str(tmp_path) not in text
    assert not (tmp_path / "model" / "training_args.bin").exists()


def test_weight_decay_applies_to_all_parameters(splits, tmp_path):
    trainer = make_trainer(splits, tmp_path)
    assert len(trainer.get_decay_parameter_names(trainer.model)) == len(list(trainer.model.parameters()))
