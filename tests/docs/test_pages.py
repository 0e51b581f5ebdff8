"""Every code block of the README and of docs/ runs, and every link resolves.

A block that cannot run here has `<!-- not run: REASON -->` above it; its commands must still parse.
"""

import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from shine_hf.cli import main, make_parser
from shine_hf.training.recipe import RECIPES, parse_recipe

from ..conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# Commands that set up a machine are not run; `make` and the installation are what runs these tests.
SET_UP = ("pip", "make", "pre-commit")
_BLOCK = re.compile(r"(<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass
class Block:
    language: str
    code: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(match["language"], match["code"], match["reason"]) for match in _BLOCK.finditer(text)]


def commands_of(block: Block) -> list[list[str]]:
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page, workspace, monkeypatch, tmp_path):
    for path in workspace.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for block in blocks_of(page):
        if block.language == "python" and not block.reason:
            exec(compile(block.code, page.name, "exec"), namespace)
        if block.language == "bash":
            for words in commands_of(block):
                if words[0] == "shine-hf" and not block.reason:
                    assert main(words[1:]) == 0, words
                else:
                    check_parses(words)


def check_parses(words: list[str]) -> None:
    """Parse the options of a command that is not run."""
    if words[0] in SET_UP or words[0] == "export" or words[:3] == ["python", "-m", "benchmarks.study"]:
        return
    if "train.py" in words:
        words = ["shine-hf", "train", *words[words.index("train.py") + 1 :]]
    if "shine-hf" in words:  # maybe after `accelerate launch --no_python`
        words = words[words.index("shine-hf") :]
    assert words[0] == "shine-hf", f"no test knows how to check {words}"
    command, *options = words[1:]
    if command == "train" or (command == "evaluate" and "--model" in options):
        parse_recipe([*options, "--use_cpu", "true"])
    else:
        module = importlib.import_module(f"shine_hf.cli.{command}")
        if hasattr(module, "add_arguments"):
            make_parser(command, module).parse_args([command, *options])
        else:
            module.make_parser().parse_args(options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_links_resolve(page):
    for match in _LINK.finditer(re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)):
        target = match["target"].partition("#")[0]
        if target and not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {match[0]}"


def test_every_recipe_is_listed():
    listed = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    names = {path.stem.removesuffix("_base").removesuffix("_shine") for path in RECIPES.glob("*.yaml")}
    assert not [name for name in names if f"`{name}`" not in listed]


def test_readme_stays_short():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 700 and max(map(len, text.splitlines())) < 120
