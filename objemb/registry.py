"""Plug-ins: the file name is the registry name, and a file is imported when it is first asked for.

A *kind* is a package of objemb (``"backbones"``, ``"pooling"`` ...). Each module in it holds exactly one class marked
with :func:`plugin`, except those named in :data:`SHARED` and those that start with an underscore. Nothing has to be
listed anywhere, and a plug-in with a heavy dependency costs nothing until it is named.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeVar

from objemb import checks

C = TypeVar("C", bound=type)

#: Kinds of plug-ins, by the settings key that holds one: ``backbone: {name: torchvision_cnn, ...}``.
KINDS = {
    "describer": "describers",
    "regions": "regions",
    "detector": "detectors",
    "backbone": "backbones",
    "extractor": "extractors",
    "pooling": "pooling",
    "aggregator": "aggregators",
    "rerank": "rerank",
    "head": "heads",
    "data": "training.data",
    "validation": "training.data",
    "task": "training.tasks",
    "benchmark": "datasets.benchmarks",
}

#: Modules of a kind's package that are no plug-ins but what its plug-ins, and those who call them, share.
SHARED = ("base", "chain", "database")


def plugin(cls: C) -> C:
    """Mark the one class of a plug-in module."""
    cls.registry_name = cls.__module__.rsplit(".", 1)[-1]  # type: ignore[attr-defined]
    return cls


def names(kind: str) -> tuple[str, ...]:
    """Names of all plug-ins of a kind, sorted. Nothing is imported but the package itself."""
    package = importlib.import_module(f"objemb.{checks.one_of('kind', kind, tuple(KINDS.values()))}")
    found = (m.name for m in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(n for n in found if n not in SHARED and not n.startswith("_")))


def load(kind: str, name: str) -> type:
    """The class of a plug-in. Unknown names raise ``ValueError`` with the known ones."""
    checks.one_of(f"{kind} name", name, names(kind))
    module = importlib.import_module(f"objemb.{kind}.{name}")
    marked = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if c.__module__ == module.__name__ and "registry_name" in vars(c)
    ]
    if len(marked) != 1:
        raise TypeError(f"objemb/{kind}/{name}.py: expected one class marked @plugin, found {len(marked)}")
    return marked[0]


def parameters(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """Constructor arguments of a plug-in: these are the keys its settings may have, beside ``name``.

    The catch-all ``*args, **kwargs`` that a class without a constructor of its own takes from ``nn.Module`` are none.
    """
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(load(kind, name))
    return {k: p for k, p in signature.parameters.items() if p.kind not in catch_all}


def build(kind: str, settings: Mapping[str, Any]) -> Any:
    """Build a plug-in from ``{"name": ..., **constructor arguments}``.

    Values under a key of :data:`KINDS` that are mappings, or lists of mappings, are built first, so that a describer
    receives ready parts.
    Unknown keys raise ``ValueError`` that suggests the nearest known one.
    """
    if not isinstance(settings, Mapping) or "name" not in settings:
        raise ValueError(f"{kind}: expected a mapping with the key 'name', found {settings!r}")
    name = settings["name"]
    known = parameters(kind, name)
    arguments: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "name":
            continue
        if key not in known:
            raise ValueError(
                f"{kind}/{name}: unknown key {key!r}{checks.nearest(key, known)}; known keys: {checks.listed(known)}"
            )
        arguments[key] = _ready(KINDS[key], value) if key in KINDS else value
    missing = [k for k, p in known.items() if p.default is p.empty and k not in arguments]
    if missing:
        raise ValueError(f"{kind}/{name}: expected the keys {checks.listed(missing)}, found {checks.listed(settings)}")
    return load(kind, name)(**arguments)


def _ready(kind: str, value: Any) -> Any:
    """A part from its settings, a list of parts from theirs; anything else is ready as it is."""
    if isinstance(value, (list, tuple)):
        return [_ready(kind, v) for v in value]
    return build(kind, value) if isinstance(value, Mapping) else value
