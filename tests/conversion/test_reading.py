"""Pickles are read as plain values, and no code in them runs."""

import argparse
import pickle
import sys
from collections import defaultdict
from pathlib import Path, PureWindowsPath
from types import ModuleType

import numpy as np
import pytest
import torch

from shine_hf.conversion.checkpoints import load_original_checkpoint
from shine_hf.conversion.reading import read_checkpoint

from .originals import OPTIONS, original_names, save


class EasyDict(dict):
    """Mimic easydict, addict etc.: a dictionary whose items are attributes."""

    __module__ = "easydict"

    def __init__(self, values):
        super().__init__(values)
        self.__dict__.update(values)


class Config:
    """An object with fields, from a module that is missing at load time."""

    __module__ = "lighthouse.config"

    def __init__(self, **fields):
        self.__dict__.update(fields)


@pytest.fixture(autouse=True)
def unknown_modules(monkeypatch):
    """Provide modules while a test saves; calling the returned `forget` removes them before it loads."""
    for kind in (EasyDict, Config):
        for name in (kind.__module__.partition(".")[0], kind.__module__):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        setattr(sys.modules[kind.__module__], kind.__name__, kind)

    def forget():
        for name in ("easydict", "lighthouse", "lighthouse.config"):
            monkeypatch.delitem(sys.modules, name)

    return forget


@pytest.mark.parametrize("kind", [EasyDict, lambda values: Config(**values), dict], ids=["EasyDict", "object", "dict"])
def test_options_of_any_class_become_plain_dictionaries(tmp_path, unknown_modules, kind):
    options = kind({**vars(OPTIONS), "nested": EasyDict({"lr": 1e-4, "names": ["a", "b"]})})
    path = save(tmp_path / "model.ckpt", options=options)
    unknown_modules()
    _, read = read_checkpoint(path)
    assert type(read) is dict and read["nested"] == {"lr": 1e-4, "names": ["a", "b"]}
    assert load_original_checkpoint(path, "moment_detr").config.max_video_length == 75
    assert "easydict" not in sys.modules and "lighthouse" not in sys.modules


def test_numpy_values_and_paths_are_read(tmp_path):
    beside = argparse.Namespace(
        **{
            **vars(OPTIONS),
            "nheads": np.int64(2),
            "clip_length": np.float32(0.5),
            "dropout": np.float64(0.25),
            "aux_loss": np.bool_(True),
            "exp_id": np.str_("charades"),
            "results_dir": Path("/home/someone/results"),
            "windows": PureWindowsPath("results"),
            "device": torch.device("cpu"),
            "counts": defaultdict(list, {"a": [1]}),
            "big": np.float64(1.5).newbyteorder(">") if hasattr(np.float64, "newbyteorder") else 1.5,
        }
    )
    content = {
        "model": original_names(),
        "opt": beside,
        "best": np.float64(0.7),
        "curve": np.arange(3),
        "file": Path("x"),
    }
    torch.save(content, tmp_path / "model.ckpt")
    _, read = read_checkpoint(tmp_path / "model.ckpt")
    assert (read["nheads"], read["clip_length"], read["aux_loss"], read["exp_id"]) == (2, 0.5, True, "charades")
    assert type(read["nheads"]) is int and type(read["dropout"]) is float and read["counts"] == {"a": [1]}
    assert read["results_dir"].endswith("home/someone/results") and read["device"] is None
    assert load_original_checkpoint(tmp_path / "model.ckpt", "moment_detr").config.dropout == 0.25


def test_legacy_torch_files_are_read(tmp_path, unknown_modules):
    content = {"model": original_names(), "opt": EasyDict(vars(OPTIONS))}
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    unknown_modules()
    assert read_checkpoint(tmp_path / "old.ckpt")[1]["nheads"] == 2


class Trap:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TrapInClass:
    """A pickle that passes a state to an arbitrary class."""

    def __reduce__(self):
        return (object.__new__, (Path,), {"x": 1})


@pytest.mark.parametrize("where", ["opt", "beside", "model"])
@pytest.mark.parametrize(
    "function", [open, exec, eval, getattr, __import__, sys.exit, pickle.loads], ids=lambda f: f.__name__
)
def test_malicious_checkpoint_runs_no_code(tmp_path, where, function):
    sprung = tmp_path / "sprung"
    arguments = {
        open: (str(sprung), "w"),
        exec: (f"open({str(sprung)!r}, 'w')",),
        eval: (f"open({str(sprung)!r}, 'w')",),
        getattr: (sprung, "touch"),
        __import__: ("antigravity",),
        sys.exit: (3,),
        pickle.loads: (pickle.dumps(Trap(open, str(sprung), "w")),),
    }[function]
    trap = Trap(function, *arguments)
    content = {"model": original_names(), "opt": OPTIONS} | {where: trap}
    if where == "opt":
        content["opt"] = argparse.Namespace(**{**vars(OPTIONS), "nested": [trap]})
    for new_format in (True, False):
        torch.save(content, tmp_path / "bad.ckpt", _use_new_zipfile_serialization=new_format)
        with pytest.raises(ValueError, match=r"was not loaded: .*only tensors, plain values"):
            read_checkpoint(tmp_path / "bad.ckpt")
        assert not sprung.exists()


def test_error_names_the_function_that_the_pickle_calls(tmp_path):
    torch.save({"model": original_names(), "opt": Trap(exec, "1")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"its pickle calls (builtins\.)?exec"):
        read_checkpoint(tmp_path / "bad.ckpt")
    torch.save({"model": original_names(), "opt": TrapInClass()}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="was not loaded"):
        read_checkpoint(tmp_path / "bad.ckpt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(open, str(tmp_path / "sprung"), "w")))
    with pytest.raises(ValueError, match="was not loaded"):
        load_original_checkpoint(tmp_path / "plain.pkl", "qd_detr")
    assert not (tmp_path / "sprung").exists()
