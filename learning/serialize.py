"""Configurations to JSON and back: nested frozen dataclasses of numbers, strings, tuples and paths."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(config: Any) -> str:
    """The configuration as indented JSON; fields keep their order."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str)


def from_json(cls: type[T], text: str) -> T:
    """Rebuilds a configuration from `to_json`.

    Args:
        cls: the dataclass.
        text: JSON.

    Raises:
        ValueError: the text is no JSON, or holds a field that `cls` does not have; the message names it.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"The configuration is no valid JSON: {error}.") from error
    return _build(cls, data, cls.__name__)


def _build(kind: Any, value: Any, where: str) -> Any:
    """A value of the annotated type from what JSON made of it."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        unknown = sorted(value.keys() - hints.keys())
        if unknown:
            raise ValueError(f"{where} has no field {unknown[0]!r}; it has {', '.join(sorted(hints))}.")
        return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1:] == (Ellipsis,) else arguments
        return tuple(_build(k, item, where) for k, item in zip(kinds, value, strict=True))
    return Path(value) if kind is Path else value
