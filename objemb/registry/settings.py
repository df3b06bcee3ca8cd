"""Settings of plug-ins: checked and completed once, then turned into objects.

User settings are passed to :func:`resolve`, the only place that checks keys; :func:`build` creates objects from its
result. The keys of a part are ``name`` and the arguments of the plug-in's constructor. The value of an argument is

- a part, or a list of parts, if the argument's name is a key of :data:`objemb.registry.KINDS`;
- settings, if its annotation is a dataclass (or None): a mapping of the fields, nested to any depth;
- otherwise a plain value.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import TypeVar, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from objemb import checks
from objemb.registry.plugins import KINDS, Plugin, load, names
from objemb.types import Settings

P = TypeVar("P", bound=Plugin)
S = TypeVar("S")

#: Marks an argument without a default.
REQUIRED = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Argument:
    """The kind of value of a key in settings.

    Attributes:
        default: The default, or :data:`REQUIRED`.
        kind: Kind of the parts that it accepts; None for other values.
        settings: Dataclass of the settings that it accepts; None for other values.
        is_text: Whether it accepts only strings, or None.
    """

    default: object
    kind: str | None
    settings: type[object] | None
    is_text: bool


#: Results of :func:`arguments`, by class.
_ARGUMENTS: WeakKeyDictionary[type[object], dict[str, Argument]] = WeakKeyDictionary()


def arguments(cls: type[object]) -> dict[str, Argument]:
    """The arguments of a plug-in's constructor, or of a dataclass of settings, in order.

    ``*args`` and ``**kwargs``, which a class without its own constructor inherits from ``nn.Module``, are ignored.

    Raises:
        TypeError: An annotation uses a name that the module does not import at run time.
    """
    if cls not in _ARGUMENTS:
        _ARGUMENTS[cls] = _read_arguments(cls)
    return _ARGUMENTS[cls]


def _read_arguments(cls: type[object]) -> dict[str, Argument]:
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [p for p in inspect.signature(cls).parameters.values() if p.kind not in catch_all]
    try:
        hints = get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)
    except NameError as error:
        raise TypeError(
            f"{cls.__module__}.{cls.__qualname__}: expected annotations whose names can be looked up, found one that "
            f"cannot ({error}); import it outside of TYPE_CHECKING"
        ) from error
    made = {f.name: f.default_factory() for f in _fields(cls) if f.default_factory is not dataclasses.MISSING}
    return {p.name: _argument(p.name, made.get(p.name, p.default), hints.get(p.name)) for p in parameters}


def _argument(name: str, default: object, hint: object) -> Argument:
    choices = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    classes = [c for c in choices if isinstance(c, type)]
    nested: list[type[object]] = [c for c in classes if dataclasses.is_dataclass(c) and not issubclass(c, Plugin)]
    settings = nested[0] if len(nested) == 1 and choices <= {*nested, NoneType} else None
    return Argument(default, KINDS.get(name), settings, choices <= {str, Path, NoneType})


def _fields(cls: type[object]) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def resolve(kind: str, part: object, where: str) -> Settings:
    """Complete a part and all nested parts with defaults. Checks only keys; constructors check values.

    Args:
        kind: Kind of the plug-in.
        part: ``{"name": ..., **constructor arguments}``.
        where: Name of the part in messages, such as ``describer.backbone``.

    Raises:
        ValueError: It is not a part, a plug-in or key is unknown (the nearest known one is suggested), or a key is
            missing.
        PluginError: The plug-in is of another package and cannot be used.
    """
    if not isinstance(part, Mapping) or "name" not in part:
        known = checks.listed(names(kind))
        raise ValueError(f"{where}: expected a part with a name (one of {known}), found {part!r}")
    cls = load(kind, part["name"])
    own = {key: value for key, value in part.items() if key != "name"}
    return cls.stand_alone({"name": part["name"], **_complete(cls, own, where, part["name"])})


def from_settings(cls: type[S], settings: object, where: str) -> S:
    """Create a dataclass of settings from a mapping.

    Args:
        cls: The dataclass.
        settings: Its fields by name.
        where: Name of the settings in messages.

    Raises:
        ValueError: It is not a mapping, a key is unknown or missing, or the dataclass rejects a value.
    """
    return _instance(cls, _complete(cls, settings, where, where), where)


def build(contract: type[P], settings: Settings) -> P:
    """Build a plug-in from resolved settings; nested parts are built first.

    Parts that are already objects are used as they are, and omitted arguments have their defaults.

    Args:
        contract: The contract, such as ``Pooling``.
        settings: ``{"name": ..., **constructor arguments}``, the result of :func:`resolve`.

    Raises:
        ValueError, TypeError: A constructor rejects a value.
        PluginError: A plug-in of another package cannot be used.
    """
    cls = load(contract, settings["name"])
    return cls(**_values(cls, settings))


def _build(kind: str, value: object) -> object:
    """Build a part or a list of parts; objects are returned as they are."""
    if isinstance(value, (list, tuple)):
        return [_build(kind, part) for part in value]
    if not isinstance(value, Mapping):
        return value
    cls = load(kind, value["name"])
    return cls(**_values(cls, value))


def _values(cls: type[object], settings: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a constructor."""
    known = arguments(cls)
    return {key: _value(known.get(key), value, key) for key, value in settings.items() if key != "name"}


def _value(argument: Argument | None, value: object, where: str) -> object:
    if argument is not None and argument.kind is not None:
        return _build(argument.kind, value)
    if argument is not None and argument.settings is not None and isinstance(value, Mapping):
        return _instance(argument.settings, value, where)
    return value


def _instance(cls: type[S], settings: Mapping[str, object], where: str) -> S:
    """Create a dataclass of settings; lists become tuples, so that it is immutable."""
    known = arguments(cls)
    values = {key: _frozen(_value(known.get(key), value, f"{where}.{key}")) for key, value in settings.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _frozen(value: object) -> object:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _complete(cls: type[object], given: object, where: str, called: str) -> dict[str, object]:
    """Check keys and fill in defaults, for a plug-in or a dataclass."""
    known = arguments(cls)
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: expected settings, some of {checks.listed(known)}, found {given!r}")
    for key in given:
        if key not in known:
            raise ValueError(
                f"{where}: unknown key {key!r}{_suggestion(key, given, known)}; "
                f"known keys of {called}: {checks.listed(known)}"
            )
    missing = [key for key, argument in known.items() if argument.default is REQUIRED and key not in given]
    if missing:
        raise ValueError(
            f"{where}: expected the {'keys' if len(missing) > 1 else 'key'} {checks.listed(missing)}, which "
            f"{'have' if len(missing) > 1 else 'has'} no default, found {checks.listed(given) or 'nothing'}"
        )
    return {key: _completed(a, given.get(key, a.default), f"{where}.{key}") for key, a in known.items()}


def _completed(argument: Argument, value: object, where: str) -> object:
    """Complete a value and everything nested in it; None is accepted for every argument."""
    if argument.is_text and isinstance(value, (bool, int, float)):
        raise ValueError(f"{where}: expected a text, found {value!r}; put it in quotes: \"'{value}'\"")
    if value is None:
        return None
    if argument.kind is not None:
        if isinstance(value, (list, tuple)):
            return [resolve(argument.kind, part, f"{where}[{i}]") for i, part in enumerate(value)]
        return resolve(argument.kind, value, where)
    if argument.settings is not None and not isinstance(value, argument.settings):
        return _complete(argument.settings, value, where, where.rpartition(".")[2])
    return plain(value)


def _suggestion(key: str, given: Mapping[str, object], known: Mapping[str, Argument]) -> str:
    """Suggestion for an unknown key: the nearest known key, or a nested part that has this key."""
    for inner, argument in known.items():
        value = given.get(inner)
        cls = argument.settings
        if argument.kind is not None and isinstance(value, Mapping) and value.get("name") in names(argument.kind):
            cls = load(argument.kind, value["name"])
        if cls is not None and key in arguments(cls):
            return f" (did you mean '{inner}.{key}'?)"
    return checks.nearest(key, known)


def plain(value: object) -> object:
    """Convert to types of JSON and YAML: tuples become lists, mappings and dataclasses of settings become dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
