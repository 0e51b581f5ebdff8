"""Collect the facts for the model card while a model is trained and evaluated."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping

import torch
from transformers import PreTrainedConfig, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..cards.facts import DataFacts, ModelFacts, SaliencyExample, public_settings
from ..schema import VALIDATION
from ..version import __version__

# Accelerate's names of mixed precision.
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8"}
SPEED_METRICS = ("_runtime", "_per_second", "_preparation_time")
# Weight of a loss on hard negatives that is not from the paper -> its name in the card.
NEGATIVE_LOSSES = {
    "decoder_negative_weight": "decoder loss",
    "clip_contrast_weight": "contrast of query and negatives on each clip",
}
# Prefixes of arguments that affect how and where training runs, but not its result.
NO_HYPERPARAMETERS = (
    "accelerator_config", "auto_find_batch_size", "data_seed", "dataloader_", "ddp_", "debug", "deepspeed", "disable_tqdm", "do_", "eval_",
    "fsdp", "greater_is_better", "hub_", "include_", "keep_best", "label_names", "length_column_name", "log_", "logging_", "metric_for_best",
    "output_dir", "per_device_eval_batch_size", "project", "push_to_hub", "remove_unused", "report_to", "restore_callback", "resume_from",
    "run_name", "save_", "seed", "skip_memory_metrics", "trackio", "use_cpu",
)  # fmt: skip


class ModelCardCallback(TrainerCallback):
    """
    Collect the facts for the model card while a model is trained and evaluated.

    Args:
        describe_data: Returns the facts about the data. Called when a card is first written; without it, the card does not describe the data.
        settings: Group -> settings that differ from their defaults, in addition to the settings of the model and the training.
        base_model: Name on the Hub of the model that is fine-tuned.
    """

    def __init__(
        self,
        describe_data: Callable[[], DataFacts] | None = None,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        base_model: str | None = None,
    ):
        self._describe_data, self._settings, self._base_model = describe_data, dict(settings or {}), base_model
        self._data: DataFacts | None = None
        self.results: dict[str, dict[str, float]] = {}
        self._results_step: int | None = None
        self._examples: dict[str, SaliencyExample] = {}
        self._is_best = self._is_resumed = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        # A resumed run starts with the earlier results.
        self._is_best, self._is_resumed = False, state.global_step > 0
        for entry in state.log_history:
            self._note(entry, entry.get("step"))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs,
    ) -> None:
        self._note(metrics, state.global_step)

    def on_best_model_loaded(self, state: TrainerState) -> None:
        """Restore the results of `state.best_global_step`, whose weights were just loaded."""
        self._is_best = True
        self.results, self._examples = {}, {}
        for entry in state.log_history:
            if entry.get("step") == state.best_global_step:
                # The results belong to the current weights, so they count as measured at the current step.
                self._note(entry, state.global_step)

    def note_example(self, example: SaliencyExample) -> None:
        """Keep a query of an evaluation for the figure."""
        self._examples[example.split] = example

    @property
    def example(self) -> SaliencyExample | None:
        """The query of the validation split, or else of the first evaluated split."""
        return self._examples.get(VALIDATION) or next(iter(self._examples.values()), None)

    def _note(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Store metrics named `eval_{split}_mIoU` (during training) or `{split}_mIoU` (afterwards). The runtime's name reveals the prefix."""
        prefix = next((name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")), None)
        if prefix in (None, "train"):
            return
        split = prefix.removeprefix("eval_")
        self.results[split] = {
            name.removeprefix(f"{prefix}_"): value
            for name, value in metrics.items()
            if name.startswith(f"{prefix}_") and not name.endswith(SPEED_METRICS)
        }
        self._results_step = step

    def facts(self, trainer: Trainer) -> ModelFacts:
        """Return the current facts about the trainer's model."""
        if self._data is None and self._describe_data is not None:
            self._data = self._describe_data()
        args, state, config = trainer.args, trainer.state, getattr(trainer.model, "config", None)
        losses = trainer.shine_loss
        selected = self._is_best and state.best_metric is not None
        return ModelFacts(
            name=trainer.hub_model_id or os.path.basename(os.path.abspath(args.output_dir)),
            class_name=type(trainer.accelerator.unwrap_model(trainer.model)).__name__,
            parameters=sum(weight.numel() for weight in trainer.model.parameters()),
            step=state.global_step,
            max_steps=state.max_steps,
            config=config.to_dict() if config is not None else {},
            ranking=[name for name in ("coarse", "fine") if losses is not None and getattr(losses, f"{name}_weight")],
            negative_losses=[
                words for name, words in NEGATIVE_LOSSES.items() if losses is not None and getattr(losses, name)
            ],
            data=self._data,
            results=dict(self.results),
            results_step=self._results_step,
            example=self.example,
            selection=(
                (args.metric_for_best_model.removeprefix("eval_"), state.best_metric, state.best_global_step)
                if selected
                else None
            ),
            settings={
                "model": _settings_of(config) if config is not None else {},
                **self._settings,
                "training": _settings_of_training(args),
            },
            log_history=list(state.log_history),
            environment=_environment(trainer, self._is_resumed),
            base_model=self._base_model,
        )


def _settings_of(config) -> dict[str, object]:
    """Return the fields of a model configuration that differ from their defaults, without the fields of every transformers model."""
    # The card describes the encoders in words.
    inherited = {f.name for f in dataclasses.fields(PreTrainedConfig)} | {"video_encoder", "text_encoder"}
    names = [f.name for f in dataclasses.fields(config) if f.name not in inherited]
    defaults = type(config)()
    return public_settings({name: getattr(config, name) for name in names}, vars(defaults))


def _settings_of_training(args: TrainingArguments) -> dict[str, object]:
    """Return the arguments that differ from their defaults and affect the result. All arguments are in training_args.json."""
    defaults = {}
    for f in dataclasses.fields(args):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        defaults[f.name] = getattr(default, "value", default)
    settings = {name: value for name, value in args.to_dict().items() if not name.startswith(NO_HYPERPARAMETERS)}
    return public_settings(settings, defaults) | {"seed": args.seed}


def _environment(trainer, is_resumed: bool) -> dict[str, str]:
    args = trainer.args
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "datasets", "accelerate")}
    # For a resumed run, this is only the time since it was resumed.
    seconds = next((e["train_runtime"] for e in reversed(trainer.state.log_history) if "train_runtime" in e), None)
    processes = f"{args.world_size} × " if args.world_size > 1 else ""
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type.upper()
    return {
        "shine_hf": __version__,
        "Python": platform.python_version(),
        **versions,
        "device": processes + device,
        "precision": PRECISIONS[trainer.accelerator.mixed_precision],
        **({"time of training": f"{seconds / 60:.1f} min"} if seconds is not None and not is_resumed else {}),
    }
