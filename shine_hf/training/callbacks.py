"""Callbacks of [`ShineTrainer`]."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import signal
import threading
from collections.abc import Callable, Mapping

import torch
from torch import distributed
from transformers import EarlyStoppingCallback, PreTrainedConfig, TrainerCallback

from .. import __version__
from ..cards.model_card import DataFacts, ModelFacts, SaliencyExample, public_settings
from ..data.loading import VALIDATION

# Accelerate's names of mixed precision.
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8"}
SPEED_METRICS = ("_runtime", "_per_second")
# Arguments that say how and where a training runs, not what comes out of it.
NO_HYPERPARAMETERS = (
    "accelerator_config", "auto_find_batch_size", "data_seed", "dataloader_", "ddp_", "debug", "deepspeed", "disable_tqdm", "do_", "eval_",
    "fsdp", "greater_is_better", "hub_", "include_", "keep_best", "label_names", "length_column_name", "log_", "logging_", "metric_for_best",
    "output_dir", "per_device_eval_batch_size", "project", "push_to_hub", "remove_unused", "report_to", "restore_callback", "resume_from",
    "run_name", "save_", "seed", "skip_memory_metrics", "trackio", "use_cpu",
)  # fmt: skip


class SetEpochCallback(TrainerCallback):
    """Tells the collator the epoch, by which it draws irrelevant queries and margin pairs."""

    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.set_epoch(int(state.epoch or 0))


class StopWithoutProgress(EarlyStoppingCallback):
    """Early stopping that looks only at the evaluations of the split on which the model is selected."""

    def on_train_begin(self, args, state, control, **kwargs):
        """A run that stopped early stays stopped when it is resumed.

        The checks of the parent do not apply: ShineTrainer keeps the best model itself, and checks its arguments.
        """
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if f"eval_{args.metric_for_best_model.removeprefix('eval_')}" in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)


class SaveAfterEvaluation(TrainerCallback):
    """A checkpoint of an epoch's last step waits for the epoch's evaluation: a run resumed from it would never catch up on that one."""

    def __init__(self):
        self._waiting = False

    def on_step_end(self, args, state, control, **kwargs):
        # Whatever ends the training also ends its last epoch.
        self._waiting = control.should_save and (state.epoch.is_integer() or control.should_training_stop)
        control.should_save = control.should_save and not self._waiting

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = control.should_save or self._waiting


class StopOnSignal(TrainerCallback):
    """
    On SIGTERM, stops the training after the step it is in, with a checkpoint from which it can be resumed exactly.

    A context manager around `trainer.train()`, which takes the signal in its block. Under several processes the signal may reach one of them
    alone or all of them during different steps; they agree on a step to stop at, one later than the first that could.

    Attributes:
        stopped (`bool`): Whether the training ended for the signal.

    Example:
        >>> with StopOnSignal() as stop:
        ...     trainer.add_callback(stop)
        ...     trainer.train()
    """

    def __init__(self):
        self.stopped = False
        self._received = False
        self._previous_handler = None
        self._group = None
        self._pending = None

    def __enter__(self) -> StopOnSignal:
        # Only the main thread may set handlers; a training elsewhere dies by the signal as it would without this callback.
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, exception_type, *_) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)
        if self._received and not self.stopped and exception_type is None:
            # It came behind the last step: there is nothing left to stop, and it must not be lost.
            signal.raise_signal(signal.SIGTERM)

    def _receive(self, number, frame) -> None:
        self._received = True

    def on_train_begin(self, args, state, control, **kwargs):
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            # On the CPU whatever the training runs on, so that no step waits for its device.
            self._group = distributed.new_group(backend="gloo", timeout=args.ddp_timeout_delta)

    def on_step_end(self, args, state, control, **kwargs):
        if not self.stopped and self._agreed():
            self.stopped = True
            control.should_training_stop = True
            # `on_epoch_end`, which follows, saves.
            control.should_save = False

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopped:
            control.should_log = control.should_save = True
            # The epoch goes on after the resumption, so its evaluation is not due yet.
            control.should_evaluate = control.should_evaluate and state.epoch.is_integer()

    def on_train_end(self, args, state, control, **kwargs):
        if self._pending is not None:
            self._pending[1].wait()

    def _agreed(self) -> bool:
        """Whether the signal has reached any process: by now if there is one process, by the end of the last step if there are several."""
        if self._group is None:
            return self._received
        agreed = False
        if self._pending is not None:
            flag, work = self._pending
            work.wait()
            agreed = bool(flag)
        flag = torch.tensor(self._received, dtype=torch.uint8)
        self._pending = flag, distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed


def ignore_foreign_sigterm(worker_init_fn: Callable[[int], None] | None, worker: int) -> None:
    """For workers of data loaders: a SIGTERM to all processes is the trainer's, which still needs them until its step is done. They end on its own
    SIGTERM only, by which torch gets rid of them in the end."""
    # macOS does not tell who sent a signal; there the workers die, and the training with them.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()
    if worker_init_fn is not None:
        worker_init_fn(worker)


def _exit_on_sigterm_from(process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(0)


class ModelCardCallback(TrainerCallback):
    """
    Collects while a model is trained and evaluated what its card says.

    Args:
        describe_data: Gives the facts about the data, when a card is first written; a card without it says nothing about the data.
        settings: Group -> settings, beside those of the model and of the training, that differ from their defaults.
        base_model: What is fine-tuned: a name on the Hub.
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

    def on_train_begin(self, args, state, control, **kwargs):
        # A resumed run knows what was measured before.
        self._is_best, self._is_resumed = False, state.global_step > 0
        for entry in state.log_history:
            self._note(entry, entry.get("step"))

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self._note(metrics, state.global_step)

    def on_best_model_loaded(self, state) -> None:
        """The weights are those of `state.best_global_step` now, and so are the results."""
        self._is_best = True
        self.results, self._examples = {}, {}
        for entry in state.log_history:
            if entry.get("step") == state.best_global_step:
                # Of the weights at hand, and not of those of another step.
                self._note(entry, state.global_step)

    def note_example(self, example: SaliencyExample) -> None:
        """Keep a query of an evaluation for the picture."""
        self._examples[example.split] = example

    @property
    def example(self) -> SaliencyExample | None:
        """Of the validation split, which every run has, or else of the first that was evaluated."""
        return self._examples.get(VALIDATION) or next(iter(self._examples.values()), None)

    def _note(self, metrics: Mapping[str, float], step: int | None) -> None:
        """`eval_{split}_mIoU` in training and `{split}_mIoU` behind it; the duration of an evaluation tells its prefix."""
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

    def facts(self, trainer) -> ModelFacts:
        """What the card of the trainer's model says now."""
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
    """The fields of a model configuration, apart from those that every model has, that differ from their defaults."""
    # The card says in words what computed the features.
    inherited = {f.name for f in dataclasses.fields(PreTrainedConfig)} | {"video_encoder", "text_encoder"}
    names = [f.name for f in dataclasses.fields(config) if f.name not in inherited]
    defaults = type(config)()
    return public_settings({name: getattr(config, name) for name in names}, vars(defaults))


def _settings_of_training(args) -> dict[str, object]:
    """What differs from the defaults, as far as it shapes the result; all of it is in training_args.json."""
    defaults = {}
    for f in dataclasses.fields(args):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        defaults[f.name] = getattr(default, "value", default)
    settings = {name: value for name, value in args.to_dict().items() if not name.startswith(NO_HYPERPARAMETERS)}
    return public_settings(settings, defaults) | {"seed": args.seed}


def _environment(trainer, is_resumed: bool) -> dict[str, str]:
    args = trainer.args
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "datasets", "accelerate")}
    # Of a run that was resumed this is the time since then alone.
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
