"""The `key=value,…` part of a specification such as `simulated:dim=64,noise=1`."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def parse_options(text: str, kinds: Mapping[str, Callable], what: str) -> dict:
    """`"dim=64,noise=1"` -> `{"dim": 64, "noise": 1.0}`.

    Args:
        text: The options; may be empty.
        kinds: Option -> how to convert its value.
        what: What the options belong to, for the message.

    Raises:
        ValueError: for an unknown option or a value of a wrong kind; names both.
    """
    options = {}
    for part in filter(None, text.split(",")):
        name, separator, value = part.partition("=")
        if not separator or name not in kinds:
            raise ValueError(
                f"{what} has no option {part!r}; expected NAME=VALUE with {', '.join(kinds) or 'none at all'}"
            )
        try:
            options[name] = kinds[name](value)
        except ValueError as error:
            raise ValueError(f"{what} option {name}: {value!r} is not a {kinds[name].__name__}") from error
    return options
