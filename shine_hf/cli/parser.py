"""The argument parser of all commands: options with dashes or underscores, defaults and examples in every `--help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn


class HelpFormatter(argparse.HelpFormatter):
    """Show each default once, and keep the line breaks of the examples."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_complete = "default" in text or action.required or not action.option_strings
        if is_complete or action.default in (None, False, argparse.SUPPRESS, [], ()):
            return text
        return f"{text} (default: %(default)s)"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` that accepts options as people type them.

    `--data_dir` and `--data-dir` are the same option, a value may begin with a dash (`--vid -1Wv8yTT`), and options are never
    abbreviated: a script that relied on a prefix would break with the next option that shares it. Subcommands inherit all of this.

    Args:
        examples: Command lines at the end of the help text.
        **options: Options of `argparse.ArgumentParser`.
    """

    def __init__(self, *, examples: Sequence[str] = (), **options: Any):
        options.setdefault("formatter_class", HelpFormatter)
        options.setdefault("allow_abbrev", False)
        if examples:
            options["epilog"] = "\n".join(["examples:", *(f"  {line}" for line in examples)])
        super().__init__(**options)
        self.examples = tuple(examples)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Change each option to its declared spelling, and parse."""
        return super().parse_known_args(None if args is None else self._spelled(list(args)), namespace)

    def error(self, message: str) -> NoReturn:
        """Print the message in one line, without the usage, and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def _spelled(self, words: list[str]) -> list[str]:
        declared = {option.replace("_", "-"): option for option in self._option_string_actions if option[:2] == "--"}
        spelled: list[str] = []
        for word in words:
            name, equals, value = word.partition("=")
            if (
                spelled
                and self._takes_one_value(spelled[-1])
                and word[:1] == "-"
                and not self._is_option(word, declared)
            ):
                # argparse mistakes a value that begins with a dash for an option, unless it is joined to the option's name.
                spelled[-1] += f"={word}"
            elif name[:2] == "--" and name.replace("_", "-") in declared:
                spelled.append(declared[name.replace("_", "-")] + equals + value)
            else:
                spelled.append(word)
        return spelled

    def _takes_one_value(self, word: str) -> bool:
        action = self._option_string_actions.get(word)
        return action is not None and action.nargs is None

    def _is_option(self, word: str, declared: dict[str, str]) -> bool:
        return word.partition("=")[0].replace("_", "-") in declared or word in self._option_string_actions
