"""Recipes: YAML files whose keys are the fields of the argument classes; the command line overrides them."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from transformers import HfArgumentParser, PreTrainedConfig

from ..data.arguments import DataArguments
from ..modeling import QDDetrConfig
from .setup import CONFIGS
from .training_args import ShineTrainingArguments

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def _model_arguments_class() -> Any:
    """Return a dataclass with `model` and every field of the model configurations, all optional: None keeps the default."""
    types = {}
    for config in CONFIGS.values():
        inherited = {f.name for f in dataclasses.fields(PreTrainedConfig)}
        types |= {f.name: f.type for f in dataclasses.fields(config) if f.name not in inherited}
    fields: list[tuple] = [
        (
            "model",
            str,
            dataclasses.field(
                default="qd_detr", metadata={"help": "qd_detr, moment_detr, or a checkpoint to start from."}
            ),
        )
    ]
    for name, kind in types.items():
        simple = next(k for k in (bool, str, float, int, list[int]) if k == kind or k in getattr(kind, "__args__", ()))
        note = (
            "By default, the width of the features."
            if name in ("video_dim", "text_dim")
            else "Field of the model configuration."
        )
        fields.append((name, simple | None, dataclasses.field(default=None, metadata={"help": note})))
    return dataclasses.make_dataclass("ModelArguments", fields)


if TYPE_CHECKING:
    ModelArguments = Any  # Created from the configurations at import time.
else:
    ModelArguments = _model_arguments_class()
    ModelArguments.__doc__ = "Which model to train, and the fields of its configuration that differ from the defaults."


@dataclasses.dataclass
class Recipe:
    """All arguments of one training run."""

    model: ModelArguments
    data: DataArguments
    training: ShineTrainingArguments

    def config_overrides(self) -> dict:
        """Return the fields of the model configuration that are set in the recipe or on the command line.

        Raises:
            ValueError: for a field that the model's configuration does not have.
        """
        fields = {k: v for k, v in vars(self.model).items() if k != "model" and v is not None}
        known = {f.name for f in dataclasses.fields(CONFIGS.get(self.model.model, QDDetrConfig))}
        if foreign := [name for name in fields if name not in known]:
            raise ValueError(f"not a setting of {self.model.model}: {', '.join(foreign)}")
        return fields


def make_parser() -> HfArgumentParser:
    """Return the parser of the training command: one option per field, and `--config`."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, ShineTrainingArguments), add_help=False, prog="shine-hf train"
    )
    parser.add_argument("--config", help="Recipe: a YAML file, or the name of a packaged one.")
    return parser


def parse_recipe(argv: Sequence[str]) -> Recipe:
    """Read `--config` and the command line.

    Raises:
        ValueError: for an unknown key or option (names the closest known one), or a value of the wrong type.
        FileNotFoundError: if the recipe does not exist.
    """
    parser = make_parser()
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    known, _ = finder.parse_known_args(list(argv))
    options = {action.dest: action for action in parser._actions}
    if known.config:
        path = find_recipe(known.config)
        keys = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(keys, dict):
            raise ValueError(f"{path}: a recipe must be a mapping of keys to values, not a {type(keys).__name__}")
        for key in keys:
            if key not in options or key == "config":
                raise ValueError(f"{path}: unknown key {key!r}{_did_you_mean(key, options)}")
        # Options convert text to their type (YAML reads 1e-4 as text). A single value of a list option must not be split into characters.
        for key, value in keys.items():
            listed = options[key].nargs in ("+", "*") and value is not None and not isinstance(value, list)
            parser.set_defaults(**{key: [value] if listed else value})
            options[key].required = False
    try:
        model, data, training, _, unknown = parser.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True
        )
    except SystemExit as error:
        if error.code:
            raise ValueError("the command line could not be read (see above)") from error
        raise
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        raise ValueError(f"unknown option {unknown[0]!r}{_did_you_mean(name, options)}")
    has_output_dir = any(word.partition("=")[0].replace("_", "-") == "--output-dir" for word in argv)
    if not has_output_dir and options["output_dir"].default is None:
        raise ValueError("--output-dir is missing: the folder to write to")
    if model.model not in CONFIGS and not Path(model.model).is_dir() and "/" not in model.model:
        raise ValueError(f"unknown model {model.model!r}: {', '.join(CONFIGS)}, or a checkpoint folder or repository")
    return Recipe(model, data, training)


def find_recipe(name: str) -> Path:
    """Return the file of a recipe: a path, or the name of a packaged one."""
    for path in (Path(name), RECIPES / name, RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    packaged = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise FileNotFoundError(f"no recipe {name!r}; the packaged ones are: {packaged}")


def _did_you_mean(name: str, options) -> str:
    near = difflib.get_close_matches(name, options, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
