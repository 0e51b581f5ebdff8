"""Behavior shared by all commands: option spelling, help texts, one-line errors."""

import argparse
import importlib
import shlex

import pytest

import shine_hf
from shine_hf.cli import COMMANDS, main, make_parser
from shine_hf.cli.parser import CommandParser


@pytest.fixture
def parser():
    parser = CommandParser(prog="tool", examples=["tool --vid v1 --top-k 3"])
    parser.add_argument("--vid", help="id of the video")
    parser.add_argument("--top-k", type=int, default=5, help="how many moments")
    parser.add_argument("--video-features", nargs="+", default=[], help="feature stores")
    parser.add_argument("--private", action="store_true", help="only you can see it")
    return parser


@pytest.mark.parametrize(
    "words",
    [
        "--top_k 3 --video_features a b --vid x",
        "--top-k=3 --video-features a b --vid=x",
        "--top_k=3 --vid x --video_features a b",
    ],
)
def test_options_accept_dashes_underscores_and_equal_signs(parser, words):
    args = parser.parse_args(words.split())
    assert (args.top_k, args.video_features, args.vid) == (3, ["a", "b"], "x")


@pytest.mark.parametrize("vid", ["-1Wv8yTTxyz", "-h1", "--abc", "-1"])
def test_value_may_start_with_a_dash(parser, vid):
    assert parser.parse_args(["--vid", vid, "--private"]).vid == vid
    assert parser.parse_args([f"--vid={vid}"]).vid == vid


def test_option_is_not_taken_as_the_value_of_the_previous_option(parser, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--vid", "--top_k", "3"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "tool: error: argument --vid: expected one argument (see tool --help)\n"


def test_abbreviated_options_are_rejected(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["--video", "x"])
    assert "unrecognized arguments: --video" in capsys.readouterr().err


def test_help_shows_defaults_and_examples(parser):
    text = parser.format_help()
    assert "how many moments (default: 5)" in text
    assert "id of the video\n" in text and "only you can see it\n" in text  # no default, so none is shown
    assert text.endswith("examples:\n  tool --vid v1 --top-k 3\n")


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"shine-hf {shine_hf.__version__}\n"


def test_unknown_command_lists_the_valid_commands(capsys):
    with pytest.raises(SystemExit):
        main(["nonsense"])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'nonsense'" in error and "predict" in error


def parsers_of(parser: argparse.ArgumentParser):
    """Return the parser and the parsers of its actions."""
    yield parser
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        for inner in action.choices.values():
            yield from parsers_of(inner)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_and_every_example_parses(name):
    module = importlib.import_module(f"shine_hf.cli.{name}")
    assert module.EXAMPLES
    if not hasattr(module, "add_arguments"):
        return
    parser = make_parser(name, module)
    command = next(action for action in parser._actions if action.dest == "command").choices[name]
    for inner in parsers_of(command):
        for action in inner._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), f"{inner.prog} {action.dest}"
        for example in inner.examples:
            program, *words = shlex.split(example.replace("\\\n", " "), comments=True)
            assert program == "shine-hf"
            parser.parse_args(words)
