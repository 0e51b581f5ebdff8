"""Push complete revisions in the background while a training runs, without delaying it.

A revision is first copied into its own folder, since its checkpoint may be deleted or overwritten before its turn comes. The copy is kept
until it is on the Hub: if the connection breaks or the process ends first, it is pushed with the next revision.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ..io import atomic_dir
from .commit import PublishedCommit, publish_folder
from .publish import MODEL_SPECIFIC, check_model_files, is_leftover, public_config

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last-checkpoint"
BEST_MODEL_FOLDER = "best"


def stage_revision(
    source: Path,
    target: Path,
    card: Mapping[str, bytes],
    *,
    state_folder: str | None = None,
    best_model: Path | None = None,
) -> None:
    """Copy the files of a revision of the model repository to a new folder.

    Args:
        source: A checkpoint, or the output folder of a run. Only the model is published from it.
        target: The folder to create, with the layout of the repository.
        card: Files of the card, path -> content.
        state_folder: Also keep the entire checkpoint under this name, so that training can be resumed from it. Such a folder contains the
            state files of the `Trainer`, which are pickles and are read with `weights_only`.
        best_model: The best model so far. It is kept with the checkpoint, so that a resumed run can still end with it.

    Raises:
        FileNotFoundError, ValueError: if the source contains no model, or pickled weights. OSError: if there is no room for the copy.
            It is then removed, since the next checkpoint needs the room more.
    """
    check_model_files(source)
    # An interrupted copy is never mistaken for a revision.
    with atomic_dir(target) as unfinished:
        try:
            _copy_revision(source, Path(unfinished), card, state_folder, best_model)
        except Exception:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def _copy_revision(
    source: Path, unfinished: Path, card: Mapping[str, bytes], state_folder: str | None, best_model: Path | None
) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and not is_leftover(path.name):
            shutil.copy2(path, unfinished)
    if state_folder is not None:
        shutil.copytree(source, unfinished / state_folder)
        if best_model is not None and best_model.is_dir():
            shutil.copytree(best_model, unfinished / state_folder / BEST_MODEL_FOLDER)
        _remove_local_paths(unfinished / state_folder / "trainer_state.json")
    for path in unfinished.rglob("config.json"):
        path.write_bytes(public_config(path))
    for name, content in card.items():
        (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
        (unfinished / name).write_bytes(content)


def publish_staged(
    folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None, token: str | None = None
) -> PublishedCommit:
    """Publish a staged revision in one commit. Its folders replace those of the repository. For errors, see [`publish_folder`]."""
    what = folder.name.partition("-")[2]
    return publish_folder(
        folder,
        repo_id,
        "model",
        message=f"Training in progress, {what.replace('-', ' ')}",
        private=private,
        revision=revision,
        delete=[*MODEL_SPECIFIC, *(f"{path.name}/*" for path in folder.iterdir() if path.is_dir())],
        token=token,
    )


def _remove_local_paths(trainer_state: Path) -> None:
    """Remove the folder of the best checkpoint from the state: it does not exist on another machine."""
    if trainer_state.is_file():
        state = json.loads(trainer_state.read_text(encoding="utf-8"))
        trainer_state.write_text(
            json.dumps(state | {"best_model_checkpoint": None}, indent=2) + "\n", encoding="utf-8"
        )


class BackgroundPusher:
    """
    Publish staged revisions one after another in a separate thread. Failures are logged. A revision that failed is kept, and retried with
    the next one and in [`finish`].

    Args:
        folder: Where the revisions wait, including those that an earlier process left behind.
        publish: Publishes one revision.
        keep_all: Publish every revision; otherwise a newer one replaces those that are still waiting.
    """

    def __init__(self, folder: Path, publish: Callable[[Path], object], keep_all: bool = False):
        self.folder, self.publish, self.keep_all = folder, publish, keep_all
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._in_progress: Path | None = None

    @property
    def waiting(self) -> list[Path]:
        """The revisions that are not on the Hub yet, oldest first."""
        return sorted(path for path in self.folder.glob("[0-9]*-*") if path.is_dir())

    def add(self, name: str, stage: Callable[[Path], None]) -> None:
        """Call `stage` to fill the folder of a revision, and publish it later. Errors in `stage` are raised."""
        with self._lock:
            waiting = self.waiting
            number = int(waiting[-1].name.partition("-")[0]) + 1 if waiting else 0
            stage(self.folder / f"{number:04}-{name}")
            if not self.keep_all:
                for path in waiting:
                    if path != self._in_progress:
                        shutil.rmtree(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="push to the Hub")
                self._thread.start()

    def finish(self) -> list[Path]:
        """Wait, retry the revisions that failed, and return those that still could not be published."""
        if (thread := self._thread) is not None:
            thread.join()
        if self.waiting:
            self._work()
        if not self.waiting:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.waiting

    def _work(self) -> None:
        failed: set[Path] = set()
        is_reachable = True
        while True:
            with self._lock:
                left = [path for path in self.waiting if path not in failed]
                self._in_progress = left[0] if left and is_reachable else None
                if self._in_progress is None:
                    self._thread = None
                    return
            try:
                self.publish(self._in_progress)
            # No error may stop the training: the revision is kept, retried, and reported at the end.
            except Exception as error:
                logger.warning("%s was not pushed and is kept for later: %s", self._in_progress, error)
                failed.add(self._in_progress)
                # If the Hub does not answer now, it would not answer for the others either.
                is_reachable = not isinstance(error, ConnectionError)
            else:
                shutil.rmtree(self._in_progress)
