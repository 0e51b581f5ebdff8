"""Background pushes: waiting, superseded and failed revisions."""

import json
import threading

import pytest

from shine_hf.hub.publish import public_config
from shine_hf.hub.push import LAST_CHECKPOINT, BackgroundPusher, stage_revision
from shine_hf.training.checkpoints import restore_best_model


class Recorder:
    """A fake publisher that records names, blocks on request, and fails a given number of times."""

    def __init__(self):
        self.published, self.attempts, self.failures = [], [], []
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Event()

    def __call__(self, folder):
        self.attempts.append(folder.name)
        self.started.set()
        assert self.go.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        assert (folder / "content").read_text() == folder.name.partition("-")[2]
        self.published.append(folder.name.partition("-")[2])


def stage(target):
    target.mkdir(parents=True)
    (target / "content").write_text(target.name.partition("-")[2])


@pytest.fixture
def recorder():
    return Recorder()


@pytest.mark.parametrize(("keep_all", "expected"), [(False, ["a", "c"]), (True, ["a", "b", "c"])])
def test_newer_revision_replaces_waiting_ones_unless_all_are_kept(recorder, tmp_path, keep_all, expected):
    pusher = BackgroundPusher(tmp_path / "queue", recorder, keep_all)
    recorder.go.clear()
    pusher.add("a", stage)
    assert recorder.started.wait(10)
    # While "a" is being pushed, which must not be interrupted.
    pusher.add("b", stage)
    pusher.add("c", stage)
    recorder.go.set()
    assert pusher.finish() == [] and recorder.published == expected
    assert not (tmp_path / "queue").exists()


def test_failed_push_is_retried_at_the_end_then_reported_and_kept(recorder, tmp_path, caplog):
    pusher = BackgroundPusher(tmp_path / "queue", recorder, keep_all=True)
    recorder.failures = [ValueError("no"), ConnectionError("gone")]
    pusher.add("a", stage)
    pusher._thread.join()
    pusher.add("b", stage)
    # "a" fails with a connection error, so "b" is not tried.
    pusher._thread.join()
    assert recorder.published == [] and "gone" in caplog.text
    recorder.failures = [ValueError("never")]
    (left,) = pusher.finish()
    assert recorder.published == ["b"] and (left / "content").read_text() == "a"


def test_revisions_left_by_an_ended_process_are_pushed_by_the_next(recorder, tmp_path):
    stage(tmp_path / "queue" / "0007-old")
    (tmp_path / "queue" / "_0008-half").mkdir()
    pusher = BackgroundPusher(tmp_path / "queue", recorder, keep_all=True)
    pusher.add("new", stage)
    assert pusher.finish() == [] and recorder.published == ["old", "new"]


def test_staging_error_is_raised_and_keeps_other_revisions_waiting(recorder, tmp_path):
    pusher = BackgroundPusher(tmp_path / "queue", recorder)
    with pytest.raises(FileNotFoundError, match=r"contains no config\.json"):
        pusher.add("a", lambda target: stage_revision(tmp_path, target, {}))
    pusher.add("b", stage)
    assert pusher.finish() == [] and recorder.published == ["b"]


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "out" / "checkpoint-8"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "layers.py"):
        (folder / name).write_text(name)
    (folder / "config.json").write_text('{"text_encoder": "words:dim=8"}')
    state = {"global_step": 8, "best_model_checkpoint": str(folder)}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "out" / "best").mkdir()
    (tmp_path / "out" / "best" / "model.safetensors").write_text("best")
    return folder


def test_trainer_state_paths_stay_inside_the_checkpoint_folder(checkpoint, tmp_path):
    target = tmp_path / "staged"
    best = checkpoint.parent / "best"
    stage_revision(checkpoint, target, {"figures/a.png": b"a"}, state_folder=LAST_CHECKPOINT, best_model=best)
    assert {path.name for path in target.iterdir()} == {
        "config.json", "model.safetensors", "layers.py", "figures", "last-checkpoint",
    }  # fmt: skip
    state = json.loads((target / LAST_CHECKPOINT / "trainer_state.json").read_text())
    assert state == {"global_step": 8, "best_model_checkpoint": None}
    assert (target / LAST_CHECKPOINT / "optimizer.pt").read_text() == "optimizer.pt"
    # On another machine, the best model is put where the trainer looks for it, but never replaces a better one.
    for _ in range(2):
        restore_best_model(target / LAST_CHECKPOINT, tmp_path / "elsewhere")
        weights = tmp_path / "elsewhere" / "best" / "model.safetensors"
        assert weights.read_text() in ("best", "better")
        weights.write_text("better")


def test_failed_copy_on_a_full_disk_frees_its_space(checkpoint, tmp_path, monkeypatch):
    def full(source, target):
        (target / "half").write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(OSError, match="No space"):
        stage_revision(checkpoint, tmp_path / "queue" / "0000-a", {})
    assert list((tmp_path / "queue").iterdir()) == []


def test_pickled_weights_are_not_staged(checkpoint, tmp_path):
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pickles \(pytorch_model.bin\)"):
        stage_revision(checkpoint, tmp_path / "staged", {})


def test_published_config_holds_no_local_paths(tmp_path):
    (tmp_path / "my-clip").mkdir()
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"video_encoder": f"clip:{tmp_path}/my-clip,frames=4", "text_encoder": "clip:openai/x"})
    )
    assert json.loads(public_config(path)) == {
        "video_encoder": "clip:my-clip,frames=4",
        "text_encoder": "clip:openai/x",
    }
    path.write_text('{"video_encoder":"i3d:","text_encoder":null}')
    assert public_config(path) == path.read_bytes()
