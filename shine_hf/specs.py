"""The one parser of specifications such as `npz:FOLDER`, `clip:MODEL,frames=2`, `simulated:dim=64,noise=1`, and several joined by `+`.

A specification is `kind:where,option=value,…`. The kind may be missing where it can be detected (a path, a Hub name). Imports nothing of
the package but [`~shine_hf.io`].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .io import hide_path


@dataclass(frozen=True)
class Spec:
    """One parsed specification.

    Args:
        kind: What comes before the colon; empty where the text names none of the known kinds.
        where: A path, a Hub name, or nothing.
        options: Option -> converted value.
    """

    kind: str
    where: str
    options: Mapping[str, Any]

    @staticmethod
    def parse(text: str, kinds: Mapping[str, Mapping[str, Callable[[str], Any]]]) -> Spec:
        """Parse one specification.

        Args:
            text: `kind:where,option=value,…`. A path or Hub name may hold commas, equals signs and colons: only trailing parts that name an
                option of the kind are options.
            kinds: Kind -> option -> how to convert its value.

        Raises:
            ValueError: for a value that cannot be converted, and for an unknown option of a kind that takes options only.
        """
        kind, colon, rest = text.partition(":")
        if not colon or kind not in kinds:
            return Spec("", text, {})
        converters = kinds[kind]
        parts = rest.split(",")
        first_option = len(parts)
        while (
            first_option > 0
            and parts[first_option - 1].partition("=")[0] in converters
            and "=" in parts[first_option - 1]
        ):
            first_option -= 1
        options = {}
        for part in parts[first_option:]:
            name, _, value = part.partition("=")
            options[name] = _convert(converters[name], value, f"{kind}: option {name}")
        return Spec(kind, ",".join(parts[:first_option]), options)

    @staticmethod
    def parse_all(text: str, kinds: Mapping[str, Mapping[str, Callable[[str], Any]]]) -> list[Spec]:
        """Parse several specifications joined by `+`. A plus sign in a path is safe: only one before `kind:` separates.

        Raises:
            ValueError: as [`Spec.parse`].
        """
        return [Spec.parse(part, kinds) for part in split_specs(text, kinds)]

    def without_where(self) -> Spec:
        """Return this specification, of a kind that takes options only.

        Raises:
            ValueError: if something that is no option was given, e.g. a misspelled name.
        """
        if self.where:
            raise ValueError(f"{self.kind}: has no option {self.where!r}; write {self.kind}:NAME=VALUE,…")
        return self

    def public(self) -> str:
        """Return the specification with only the last part of a path on this machine."""
        return str(Spec(self.kind, hide_path(self.where), self.options))

    def __str__(self) -> str:
        parts = [self.where] if self.where else []
        parts += [f"{name}={value}" for name, value in self.options.items()]
        return (f"{self.kind}:" if self.kind else "") + ",".join(parts)


def split_specs(text: str, kinds: Collection[str]) -> list[str]:
    """Split specifications joined by `+`, at each plus sign that is followed by a known kind and a colon."""
    return re.split(rf"\+(?=(?:{'|'.join(map(re.escape, kinds))}):)", text)


def _convert(converter: Callable[[str], Any], value: str, what: str) -> Any:
    try:
        return converter(value)
    except ValueError as error:
        raise ValueError(f"{what}: {value!r} is not a valid {getattr(converter, '__name__', 'value')}") from error
