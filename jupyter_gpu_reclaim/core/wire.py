"""The nouns as JSON and back, for REST, events and the log. One rule for all of them, no table to keep in step.

Field names stay as they are, but a span `took` becomes `took_seconds` (float). Instants are ISO 8601 in UTC with "Z",
bytes are ints, enums their values. Decisions and outcomes say which one they are: "act": "keep", "outcome": "done".
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from jupyter_gpu_reclaim.core.model import Admit, Done, Failed, Keep, Reclaim, Refused, Restore, Wait, Warn

T = TypeVar("T")

_TAGS: Mapping[type, tuple[str, str]] = {
    Keep: ("act", "keep"),
    Warn: ("act", "warn"),
    Reclaim: ("act", "reclaim"),
    Restore: ("act", "restore"),
    Admit: ("act", "admit"),
    Wait: ("act", "wait"),
    Done: ("outcome", "done"),
    Refused: ("outcome", "refused"),
    Failed: ("outcome", "failed"),
}


class WireError(ValueError):
    """JSON that is not the noun it should be; the message names the field and what was expected."""


def to_json(value: Any) -> Any:
    """A noun, or a container of nouns, as what `json.dumps` takes. Raises `WireError` for an instant without a zone."""
    if is_dataclass(value) and not isinstance(value, type):
        tag = _TAGS.get(type(value))
        body = {} if tag is None else {tag[0]: tag[1]}
        for field in fields(value):
            item = getattr(value, field.name)
            body[_key(type(value), field.name)] = to_json(item)
        return body
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(to_json(key)): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise WireError(f"{type(value).__name__} is not one of the nouns")


def from_json(kind: type[T] | Any, data: Any) -> T:
    """The noun of class `kind` (or one of a union such as `Decision`) in `data`, equal to the one `to_json` was given.

    Keys that are not known are passed over, missing ones get the noun's default. Raises `WireError`.
    """
    return _read(kind, data, getattr(kind, "__name__", "value"))


def instant(value: datetime) -> str:
    """ISO 8601 in UTC, ending in "Z"."""
    if value.tzinfo is None:
        raise WireError(f"the instant {value.isoformat()} has no time zone")
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


@cache
def _key(kind: type, name: str) -> str:
    hint = _hints(kind)[name]
    return f"{name}_seconds" if timedelta in (hint, *get_args(hint)) else name


def _read(hint: Any, data: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(hint), data, where)
    if origin is tuple:
        inner = get_args(hint)[0]
        return tuple(_read(inner, item, f"{where}[{i}]") for i, item in enumerate(_a(list, data, where)))
    if origin is not None and issubclass(origin, Mapping):
        keys, values = get_args(hint)
        pairs = _a(dict, data, where).items()
        return {_read(keys, k, where): _read(values, v, f"{where}[{k!r}]") for k, v in pairs}
    if is_dataclass(hint):
        return _read_noun(cast(type, hint), _a(dict, data, where), where)
    if issubclass(hint, Enum):
        try:
            return hint(data)
        except ValueError:
            raise WireError(f"{where}: {data!r} is no {hint.__name__}") from None
    if hint is datetime:
        return _read_instant(_a(str, data, where), where)
    if hint is timedelta:
        return timedelta(seconds=_a(float, data, where))
    return _a(hint, data, where)


def _read_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if type(None) in kinds:
        if data is None:
            return None
        kinds = tuple(kind for kind in kinds if kind is not type(None))
        if len(kinds) == 1:
            return _read(kinds[0], data, where)
    body = _a(dict, data, where)
    for kind in kinds:
        name, tag = _TAGS.get(kind, ("", ""))
        if name and body.get(name) == tag:
            return _read_noun(kind, body, where)
    raise WireError(f"{where}: none of {', '.join(_TAGS[kind][1] for kind in kinds)}")


def _read_noun(kind: type, body: Mapping[str, Any], where: str) -> Any:
    hints, found = _hints(kind), {}
    for field in fields(kind):
        key = _key(kind, field.name)
        if key in body:
            found[field.name] = _read(hints[field.name], body[key], f"{where}.{key}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise WireError(f"{where}.{key} is missing")
    return kind(**found)


def _read_instant(text: str, where: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise WireError(f"{where}: {text!r} is no instant in ISO 8601") from None
    if value.tzinfo is None:
        raise WireError(f"{where}: {text!r} has no time zone")
    return value.astimezone(UTC)


def _a(kind: type, data: Any, where: str) -> Any:
    """`data`, when it is of this JSON type; an int serves as a float, a bool never as a number."""
    wanted = (int, float) if kind is float else kind
    if not isinstance(data, wanted) or (isinstance(data, bool) and kind is not bool):
        raise WireError(f"{where}: {kind.__name__} expected, not {data!r}")
    return float(cast(float, data)) if kind is float else data
