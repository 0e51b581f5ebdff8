"""Parse specifications such as `npz:FOLDER`, `clip:MODEL,frames=2`, `simulated:dim=64,noise=1`, and several joined by `+`.

A specification is `kind:where,option=value,…`. The kind may be omitted if it can be detected (a path, a Hub name). This module
imports only [`~shine_hf.io`] from the package.
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
        kind: The part before the colon; empty if it is not a known kind.
        where: A path, a Hub name, or empty.
        options: Option -> converted value.
    """

    kind: str
    where: str
    options: Mapping[str, Any]

    @staticmethod
    def parse(text: str, kinds: Mapping[str, Mapping[str, Callable[[str], Any]]]) -> Spec:
        """Parse one specification.

        Args:
            text: `kind:where,option=value,…`. A path or Hub name may contain commas, equals signs and colons: only trailing parts that name
                an option of the kind are options.
            kinds: Kind -> option -> how to convert its value.

        Raises:
            ValueError: for a value that cannot be converted.
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
        """Parse specifications joined by `+`. A plus sign in a path is safe: only one before `kind:` is a separator.

        Raises:
            ValueError: as [`Spec.parse`].
        """
        return [Spec.parse(part, kinds) for part in split_specs(text, kinds)]

    def without_where(self) -> Spec:
        """Check that this specification has only options, and return it.

        Raises:
            ValueError: if it has anything else, e.g. a misspelled option.
        """
        if self.where:
            raise ValueError(f"{self.kind}: has no option {self.where!r}; write {self.kind}:NAME=VALUE,…")
        return self

    def contradicts(self, other: Spec) -> bool:
        """Return whether another specification has a different kind or place, or a different value of an option that both give."""
        return (self.kind, self.where) != (other.kind, other.where) or any(
            self.options[name] != other.options[name] for name in self.options.keys() & other.options.keys()
        )

    def public(self) -> str:
        """Return the specification with a local path reduced to its last part."""
        return str(Spec(self.kind, hide_path(self.where), self.options))

    def __str__(self) -> str:
        parts = [self.where] if self.where else []
        parts += [f"{name}={value}" for name, value in self.options.items()]
        return (f"{self.kind}:" if self.kind else "") + ",".join(parts)


def split_specs(text: str, kinds: Collection[str]) -> list[str]:
    """Split specifications joined by `+`, at each plus sign followed by a known kind and a colon."""
    return re.split(rf"\+(?=(?:{'|'.join(map(re.escape, kinds))}):)", text)


def _convert(converter: Callable[[str], Any], value: str, what: str) -> Any:
    try:
        return converter(value)
    except ValueError as error:
        raise ValueError(f"{what}: {value!r} is not a valid {getattr(converter, '__name__', 'value')}") from error
