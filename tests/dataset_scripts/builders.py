"""The builders of `dataset_scripts/`, and made-up files in place of the public ones."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from shine_hf.data.datasets import DATASETS
from tests.data.made_up import write_jsonl

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset_scripts"
VERBS, NOUNS = (
    ("opens", "closes", "takes", "holds", "throws", "washes"),
    ("door", "book", "towel", "cup", "laptop", "box"),
)


def script(name: str) -> ModuleType:
    """Import one of the scripts as a module."""
    specification = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # `datasets` looks a builder's module up by its name.
    specification.loader.exec_module(module)
    return module


def made_up_annotations(split: str, videos: int = 8) -> dict:
    """Return an original JSON of made-up sentences; every third window ends after its video, one is empty."""
    content = {}
    for index in range(videos):
        sentences = [f" person {VERBS[(index + k) % 6]} the {NOUNS[(index + 3 * k) % 6]}." for k in range(2)]
        video = {
            "sentences": sentences,
            "timestamps": [[1.0, 4.0 + index], [5.0, 5.0 if index == 1 else 21.0]],
            "duration": 20.0 + index % 3,
        }
        if split == "novel_composition":
            video["novels"] = [{"v-n": [["open", "door"], ["open", "cup"]]}, {"p-n": [["on", "box"]]}]
        elif split == "novel_word":
            video["news"] = [{"NOUN": ["towel"]}, {"VERB": ["washes"]}]
        content[f"{split.upper().replace('_', '')}{index}"] = video
    return content


def authors_rows(train: dict) -> list[dict]:
    """Return rows in the form of the authors' jsonl."""
    return [
        {
            "qid": f"{vid}_train_{index}",
            "vid": vid,
            "query": sentence,
            "duration": video["duration"],
            "relevant_windows": [window],
            "masked_queries": ["person <mask> the <mask>."] * 3,
            "recomposed_queries": ["person paints the wall.", "person _paints the wall.", "dog eats."],
        }
        for vid, video in train.items()
        for index, (sentence, window) in enumerate(zip(video["sentences"], video["timestamps"]))
    ]


def use_made_up_sources(monkeypatch) -> None:
    """Make the builders accept made-up files in place of the public ones: drop the expected SHA-256."""
    for name in ("charades_cg", "activitynet_cg"):
        spec = DATASETS[name]
        unchecked = replace(
            spec,
            originals={split: replace(file, sha256=None) for split, file in spec.originals.items()},
            authors_negatives=replace(spec.authors_negatives, sha256=None),
        )
        monkeypatch.setitem(DATASETS, name, unchecked)


def write_public_files(folder: Path, dataset: str = "charades_cg", authors: bool = True) -> Path:
    """Write made-up public files of a dataset in the layout of a data folder."""
    for split in ("train", "test_trivial", "novel_composition", "novel_word"):
        path = folder / dataset / f"{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made_up_annotations(split)))
    if authors:
        write_jsonl(folder / DATASETS[dataset].authors_negatives.local, authors_rows(made_up_annotations("train")))
    return folder
