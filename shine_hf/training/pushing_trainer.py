"""The part of [`ShineTrainer`] that handles the Hub: the model card, and pushes that never stop training."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from ..cards.model_card import card_files, write_model_card
from ..hub.commit import PublishedCommit, open_repository
from ..hub.publish import UNPUSHED_FOLDER, publish_model
from ..hub.push import BEST_MODEL_FOLDER, LAST_CHECKPOINT, BackgroundPusher, publish_staged, stage_revision
from ..io import atomic_file
from .model_card_callback import ModelCardCallback

logger = logging.getLogger(__name__)

LOCAL_ARGUMENTS = ("output_dir", "run_name", "resume_from_checkpoint", "logging_dir", "deepspeed", "fsdp_config")


class PushingTrainer(Trainer):
    """
    A `Trainer` that pushes the model in single, verified commits, with the model card and without pickles.

    During training, `hub_strategy` selects what to push: with `every_save`, the model of each checkpoint; with `checkpoint`, also the checkpoint
    itself, in `last-checkpoint`; with `all_checkpoints`, each checkpoint in its own folder; with `end`, nothing. These pushes run in the
    background. A newer push replaces waiting ones, except with `all_checkpoints` or `hub_always_push`. Failed pushes are retried with the
    next push and at the end of training.

    Two private methods of `Trainer` are overridden, since its public methods do not control what is pushed: `_push_from_checkpoint`, which would
    push pickles and no card, and `_finish_current_push`, which waits for background pushes.

    Args:
        card (`ModelCardCallback`, *optional*): Collects the facts for the card. Pass one that describes the data.
        kwargs: Passed to `Trainer`.
    """

    def __init__(self, *args, card: ModelCardCallback | None = None, **kwargs):
        self.card = card or ModelCardCallback()
        self._pusher: BackgroundPusher | None = None
        super().__init__(*args, **kwargs)
        self.add_callback(self.card)

    # ---- the card ----------------------------------------------------------------------------------------------------

    def create_model_card(self, output_dir: str | None = None) -> None:
        """Write the card with the current metrics, its figures and `.eval_results` to `output_dir`, by default the output folder of the run."""
        if self.is_world_process_zero():
            write_model_card(self.card.facts(self), output_dir or self.args.output_dir)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as `Trainer` does, plus the card, and with the arguments as JSON instead of a pickle.

        With `push_to_hub`, the model is then pushed in the background, without waiting for it.
        """
        super().save_model(output_dir, _internal_call=True)
        self._write_arguments(Path(output_dir or self.args.output_dir))
        if _internal_call or not self.is_world_process_zero():
            return
        folder = output_dir or self.args.output_dir
        self.create_model_card(folder)
        if self.args.push_to_hub:
            self._push_in_background(Path(folder), "model")

    def _write_arguments(self, folder: Path) -> None:
        pickle = folder / "training_args.bin"
        if self.args.should_save and pickle.exists():
            pickle.unlink()
            # transformers masks tokens in `to_dict`; local paths are left out.
            settings = {name: value for name, value in self.args.to_dict().items() if name not in LOCAL_ARGUMENTS}
            with atomic_file(folder / "training_args.json") as file:
                json.dump(settings, file, indent=2, default=str)

    # ---- pushes ------------------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository. Fails on a token without write access, before any work, but not if the Hub is down.

        Raises:
            PermissionError: for a missing, invalid or read-only token.
            ValueError: if the repository is public but should be private.
        """
        if not self.is_world_process_zero():
            return
        args = self.args
        self.hub_model_id = args.hub_model_id or Path(args.output_dir).absolute().name
        self._access = {
            "token": token or args.hub_token,
            "private": bool(args.hub_private_repo if private is None else private),
            "revision": args.hub_revision,
        }
        self._pusher = BackgroundPusher(
            Path(args.output_dir) / UNPUSHED_FOLDER,
            lambda folder: publish_staged(folder, self.hub_model_id, **self._access),
            keep_all=args.hub_always_push or args.hub_strategy == HubStrategy.ALL_CHECKPOINTS,
        )
        try:
            self.hub_model_id = open_repository(self.hub_model_id, **self._access)
        except ConnectionError as error:
            logger.warning("%s. Training continues, and pushes will try again", error)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> PublishedCommit | None:
        """
        Save the model with its card in `output_dir` and publish it in one commit, after all waiting pushes. Returns once everything is
        uploaded and verified. Every process must call this.

        Returns:
            The commit, on the main process.

        Raises:
            PermissionError, ValueError, ConnectionError, OSError: see [`publish_folder`]. The log says how to push by hand.
        """
        # Before the model is saved again, since the folder may still be uploading.
        self._finish_current_push()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.create_model_card()
        given = {"token": token, "revision": revision, "private": private}
        access = self._access | {name: value for name, value in given.items() if value is not None}
        folder, repo_id = self.args.output_dir, self.hub_model_id
        try:
            return publish_model(folder, repo_id, message=commit_message, **access)
        except Exception:
            by_hand = f"shine-hf publish model {folder} --repo-id {repo_id}"
            logger.error("the model is complete in %s but was not pushed; push it by hand: %s", folder, by_hand)
            raise

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Queue the model of a checkpoint, and with some strategies the checkpoint itself. No failure here stops the training."""
        if self.args.hub_strategy == HubStrategy.END or not self.is_world_process_zero():
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        state_folder = {
            HubStrategy.CHECKPOINT: LAST_CHECKPOINT,
            HubStrategy.ALL_CHECKPOINTS: Path(checkpoint_folder).name,
        }.get(self.args.hub_strategy)
        self._push_in_background(Path(checkpoint_folder), f"step-{self.state.global_step}", state_folder)

    def _push_in_background(self, source: Path, name: str, state_folder: str | None = None) -> None:
        def stage(target: Path) -> None:
            best = Path(self.args.output_dir) / BEST_MODEL_FOLDER
            # Figures are only drawn after training, which they would delay.
            card = card_files(self.card.facts(self), with_figures=not self.is_in_train)
            stage_revision(source, target, card, state_folder=state_folder, best_model=best)

        try:
            self._pusher.add(name, stage)
        # E.g. a full disk, or a model that is not from transformers. The checkpoint itself is saved, and training continues.
        except Exception as error:
            logger.warning("%s is saved, but will not be pushed: %s", source, error)

    def _finish_current_push(self) -> None:
        """Wait for background pushes, retry failed ones, and log how to push by hand what still failed."""
        for folder in self._pusher.finish() if self._pusher is not None else ():
            logger.warning(
                "%s could not be pushed. It is kept; push it by hand: hf upload %s %s .",
                folder,
                self.hub_model_id,
                folder,
            )
