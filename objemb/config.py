"""YAML becomes validated settings. This is the only reader of YAML.

A method is a file of nested parts, each with a ``name`` (a plug-in) and keys that equal its constructor's arguments:

.. code-block:: yaml

    base: hard_attention_crop.yaml        # optional: start from this file, relative to this one
    describer:
      pooling: {name: max}
    aggregator: {name: keep}
    rerank: [{name: query_expansion, top: 5}]   # optional; a list is replaced as a whole

Files, and overrides such as ``backbone.arch=mobilenet_v2`` from a command line, are merged key by key by one rule: a
part that names *another* plug-in replaces the whole part, so that no key of the old one is left behind.

A training config is read by the same rules; its parts are ``task``, a plug-in, and ``run``, plain settings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from objemb import checks, registry

#: The parts of a method; every other key of an override belongs to the first one.
PARTS = ("describer", "aggregator", "rerank")
#: The parts of a training config, likewise.
TRAINING_PARTS = ("task", "run")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of a method, complete: every key that the file does not name has its default.

    Args:
        path: A YAML file, or the name of a method that comes with objemb, such as ``rmac``.
        overrides: ``dotted.key=value``, the value read as YAML. The prefix ``describer.`` may be left out:
            ``extractor.size=320``. The later of two for the same key wins.

    Returns:
        ``{"describer": {...}, "aggregator": {...}, "rerank": [...]}``, ready for :func:`objemb.models.build_model`.

    Raises:
        FileNotFoundError: The file, or one that it is based on, does not exist.
        ValueError: Not YAML, a key twice, an unknown key or plug-in (the nearest known one is suggested).
    """
    settings = _read(path, "methods", overrides, PARTS)
    try:
        return resolve(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_training_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of a training run; its task is complete, ``run`` as far as it is named.

    Args:
        path: A YAML file, or the name of a training config that comes with objemb, such as ``classify_scenes``.
        overrides: ``dotted.key=value``; the prefix ``task.`` may be left out: ``data.count=100 run.steps=50``.

    Returns:
        ``{"task": {"name": ..., ...}, "run": {...}}``; :class:`objemb.training.settings.RunSettings` checks the latter.

    Raises:
        FileNotFoundError, ValueError: As :func:`load_config`.
    """
    settings = _read(path, "train", overrides, TRAINING_PARTS)
    try:
        _check_parts(settings, TRAINING_PARTS)
        run = settings.get("run") or {}
        if not isinstance(run, Mapping):
            raise ValueError(f"run: expected a mapping such as 'steps: 400', found {run!r}")
        return {"task": _resolve_part("task", "task", settings["task"]), "run": plain(run)}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every default filled in, checked against the constructors of the plug-ins they name.

    Only keys are checked here; values are checked by the constructors.
    """
    _check_parts(settings, PARTS)
    full = {"aggregator": {"name": "keep"}, "rerank": [], **settings}
    steps = full["rerank"]
    if not isinstance(steps, (list, tuple)):
        raise ValueError(f"rerank: expected a list of parts such as [{{name: query_expansion}}], found {steps!r}")
    single = {part: _resolve_part(part, part, full[part]) for part in PARTS if part != "rerank"}
    return {**single, "rerank": _resolve_parts("rerank", "rerank", steps)}


def _check_parts(settings: Mapping[str, Any], parts: Sequence[str]) -> None:
    """Raise ``ValueError`` for a key that is no part, or when the first part is missing."""
    for key in settings:
        if key not in parts:
            raise ValueError(f"unknown key {key!r}{checks.nearest(key, parts)}; known keys: {checks.listed(parts)}")
    if parts[0] not in settings:
        raise ValueError(f"expected the key {parts[0]!r}, found {checks.listed(settings) or 'nothing'}")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, key by key; a part with another ``name`` replaces the part below it."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and not _another_plugin(old, value):
            value = merge(old, value)
        merged[key] = value
    return merged


def _another_plugin(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "name" in old and "name" in new and old["name"] != new["name"]


def parse_overrides(overrides: Sequence[str], parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """``["backbone.arch=vgg16", "aggregator.name=sum"]`` as nested settings; other keys belong to the first part."""
    nested: dict[str, Any] = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"override: expected key=value such as backbone.arch=mobilenet_v2, found {override!r}")
        path = keys if keys[0] in parts else [parts[0], *keys]
        value = _parse(text, f"override {override!r}")
        for key in reversed(path):
            value = {key: value}
        nested = merge(nested, value)
    return nested


def parse_part(key: str, text: str) -> dict[str, Any]:
    """One part from a command line, such as ``query_expansion,top=5``: its name, then its keys, with all defaults.

    Args:
        key: What it is, a key of :data:`objemb.registry.KINDS` such as ``rerank``.
        text: ``NAME,key=value,...``; values are read as YAML.

    Raises:
        ValueError: An unknown name or key (the nearest known one is suggested), or no YAML.
    """
    name, *own = re.split(r",(?=[\w.]+=)", text)
    nested = parse_overrides(own, (key,))
    return _resolve_part(key, key, {"name": name, **nested.get(key, {})})


def read_yaml(file: Path) -> dict[str, Any]:
    """The settings in a file that :func:`dump_config` made. Raises ``ValueError`` where it holds none."""
    settings = _parse(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(settings, Mapping):
        raise ValueError(f"{file}: expected settings, found {settings!r}")
    return dict(settings)


def dump_config(settings: Mapping[str, Any]) -> str:
    """Settings as YAML text that :func:`load_config` reads back."""
    return yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def method_files() -> dict[str, Path]:
    """The methods that come with objemb: name to file."""
    return _files("methods")


def _files(folder: str) -> dict[str, Path]:
    """The configs of a folder of ``configs``: name to file. An installation has them inside the package."""
    package = Path(__file__).parent
    configs = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {f.stem: f for f in sorted((configs / folder).glob("*.yaml"))}


def _read(path: str | Path, folder: str, overrides: Sequence[str], parts: Sequence[str]) -> dict[str, Any]:
    """A file or a config of ``folder`` by its name, with the overrides laid over it."""
    settings = _read_with_base(_find(path, folder), ())
    return merge(settings, parse_overrides(overrides, parts)) if overrides else settings


def _find(path: str | Path, folder: str) -> Path:
    file = Path(path)
    if file.is_file():
        return file
    known = _files(folder) | (_files("") if folder == "methods" else {})
    if str(path) in known:
        return known[str(path)]
    raise FileNotFoundError(
        f"config: expected a YAML file or one of {checks.listed(known)}, "
        f"found neither at {path}{checks.nearest(file.stem, known)}"
    )


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ValueError(f"base: expected no circle, found {' -> '.join(p.name for p in (*seen, path))}")
    settings = _parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(settings, Mapping):
        raise ValueError(f"{path}: expected a mapping of parts such as 'describer:', found {settings!r}")
    own = {k: v for k, v in settings.items() if k != "base"}
    if "base" not in settings:
        return own
    if not isinstance(settings["base"], str):
        raise ValueError(f"{path}: base: expected the path of a YAML file, found {settings['base']!r}")
    base = path.parent / settings["base"]
    if not base.is_file():
        raise FileNotFoundError(f"{path}: base: expected a YAML file, found none at {base}")
    return merge(_read_with_base(base, (*seen, path)), own)


class _Loader(yaml.SafeLoader):
    """Plain data only, as ``yaml.safe_load``; a key that occurs twice is an error instead of a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        twice = [k for i, k in enumerate(keys) if k in keys[:i]]
        if twice:
            mark = node.start_mark
            raise ValueError(f"expected each key once, found {twice[0]!r} twice (mapping at line {mark.line + 1})")
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3, without a point, as a text
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{where}: expected YAML, found: {' '.join(str(error).split())}") from error


def _resolve_parts(where: str, key: str, value: Any) -> Any:
    """A part, or a list of parts."""
    if isinstance(value, (list, tuple)):
        return [_resolve_part(f"{where}[{i}]", key, part) for i, part in enumerate(value)]
    return _resolve_part(where, key, value)


def _resolve_part(where: str, key: str, part: Any) -> dict[str, Any]:
    """One part and the parts within it, with all defaults."""
    kind = registry.KINDS[key]
    if not isinstance(part, Mapping) or "name" not in part:
        known = checks.listed(registry.names(kind))
        raise ValueError(f"{where}: expected a part with a name (one of {known}), found {part!r}")
    known_keys = registry.parameters(kind, part["name"])
    for name in part:
        if name != "name" and name not in known_keys:
            raise ValueError(
                f"{where}: unknown key {name!r}{_suggestion(name, part, known_keys)}; "
                f"known keys of {part['name']}: {checks.listed(known_keys)}"
            )
    values = {"name": part["name"]}
    for name, parameter in known_keys.items():
        if name not in part and parameter.default is inspect.Parameter.empty:
            raise ValueError(f"{where}: expected the key {name!r}, which has no default, found {checks.listed(part)}")
        value = part.get(name, parameter.default)
        is_part = name in registry.KINDS and value is not None
        values[name] = _resolve_parts(f"{where}.{name}", name, value) if is_part else plain(value)
    # a plug-in that may be given a file in the place of settings puts in what the file says: models travel
    stand_alone = getattr(registry.load(kind, part["name"]), "stand_alone", dict)
    return stand_alone(values)


def _suggestion(key: str, part: Mapping[str, Any], known: Iterable[str]) -> str:
    """The nearest known key, or the part within this one that has exactly this key."""
    for inner, value in part.items():
        is_part = inner in registry.KINDS and isinstance(value, Mapping) and "name" in value
        if is_part and key in registry.parameters(registry.KINDS[inner], value["name"]):
            return f" (did you mean '{inner}.{key}'?)"
    return checks.nearest(key, known)


def plain(value: Any) -> Any:
    """Tuples become lists and mappings dicts, so that settings survive JSON and YAML unchanged."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
