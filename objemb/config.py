"""Reads YAML into validated settings. Nothing else in objemb reads YAML.

A method is a file of nested parts, each with a ``name`` (a plug-in) and keys that equal its constructor's arguments:

.. code-block:: yaml

    base: hard_attention_crop.yaml        # optional: start from this file, relative to this one
    describer:
      pooling: {name: max}
    aggregator: {name: keep}
    rerank: [{name: query_expansion, top: 5}]   # optional; a list is replaced as a whole

Files, and overrides such as ``backbone.arch=mobilenet_v2`` from a command line, are merged key by key, with one
exception: a part that names *another* plug-in replaces the part below it entirely, so that none of its keys remains.

Training configs follow the same rules; their parts are ``task``, a plug-in, and ``run``, plain settings.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import yaml

from objemb import checks, registry
from objemb.types import Settings

#: The parts of a method. An override whose key names none of them applies to the first one.
PARTS = ("describer", "aggregator", "rerank")
#: The same for training configs.
TRAINING_PARTS = ("task", "run")
#: Limits of a config: its number of values (with anchors expanded), its nesting depth and its size in bytes. They are
#: far above what people write.
MAX_VALUES, MAX_DEPTH = 100_000, 50
MAX_BYTES = 1 << 22
#: The key of an override, with its equals sign; keys of YAML mappings are followed by a colon.
KEY = r"[\w.]+(\[\d+\][\w.]*)*="
#: A key of an override that is the number of a list entry.
ENTRY = re.compile(r"\[\d+\]")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """The complete settings of a method: keys that the file does not set have their defaults.

    Args:
        path: A YAML file, or the name of a method that comes with objemb, such as ``rmac``.
        overrides: ``dotted.key=value``; lists and mappings are written as in YAML: ``scales=[1.0, 0.5]``. The prefix
            ``describer.`` may be left out: ``extractor.size=320``. An entry of a list is selected by its number:
            ``regions.of[0].min_score=0.3``. If a key is set twice, the last value counts.

    Returns:
        ``{"describer": {...}, "aggregator": {...}, "rerank": [...]}``, ready for :func:`objemb.models.build_model`.

    Raises:
        FileNotFoundError: The file, or one that it is based on, does not exist.
        ValueError: The file is not YAML, repeats a key, or contains an unknown key or plug-in (the error suggests the
            most similar known one).
    """
    settings = _read(path, "methods", overrides, PARTS)
    try:
        return resolve(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_training_config(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a training run: complete for its task, and for ``run`` those that the config sets.

    Args:
        path: A YAML file, or the name of a training config that comes with objemb, such as ``classify_scenes``.
        overrides: ``dotted.key=value``; the prefix ``task.`` may be left out: ``data.count=100``, ``run.steps=50``.

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
        return {"task": registry.resolve("training.tasks", settings["task"], "task"), "run": registry.plain(run)}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def resolve(settings: Mapping[str, object]) -> Settings:
    """Settings of a method with all defaults filled in, checked by :func:`objemb.registry.resolve`."""
    _check_parts(settings, PARTS)
    full = {"aggregator": {"name": "keep"}, "rerank": [], **settings}
    steps = full["rerank"]
    if not isinstance(steps, (list, tuple)):
        raise ValueError(f"rerank: expected a list of parts such as [{{name: query_expansion}}], found {steps!r}")
    return {
        "describer": registry.resolve("describers", full["describer"], "describer"),
        "aggregator": registry.resolve("aggregators", full["aggregator"], "aggregator"),
        "rerank": [registry.resolve("rerank", step, f"rerank[{i}]") for i, step in enumerate(steps)],
    }


def _check_parts(settings: Mapping[str, object], parts: Sequence[str]) -> None:
    """Raise ``ValueError`` for a key that is not one of the parts, or if the first part is missing."""
    for key in settings:
        if key not in parts:
            raise ValueError(f"unknown key {key!r}{checks.nearest(key, parts)}; known keys: {checks.listed(parts)}")
    if parts[0] not in settings:
        raise ValueError(f"expected the key {parts[0]!r}, found {checks.listed(settings) or 'nothing'}")


def merge(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """``below`` with the keys of ``above`` merged into it; a part with another ``name`` replaces the one below it.

    A mapping with the keys ``[0]``, ``[1]`` ... is merged into the entries of a list that have these numbers.

    Raises:
        ValueError: The list has no entry of this number.
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, (list, tuple)) and isinstance(value, Mapping) and all(map(ENTRY.fullmatch, value)):
            entries = {f"[{number}]": entry for number, entry in enumerate(old)}
            if unknown := [number for number in value if number not in entries]:
                raise ValueError(f"{key}{unknown[0]}: expected one of the {len(old)} entries of {key}, counted from 0")
            value = list(merge(entries, value).values())
        elif isinstance(value, Mapping) and isinstance(old, Mapping) and not _another_plugin(old, value):
            value = merge(old, value)
        merged[key] = value
    return merged


def _another_plugin(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    return "name" in old and "name" in new and old["name"] != new["name"]


def parse_overrides(overrides: Sequence[str], parts: Sequence[str] = PARTS) -> Settings:
    """``["backbone.arch=vgg16", "aggregator.name=sum"]`` as nested settings, with the first part as default prefix."""
    nested: dict[str, object] = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().replace("[", ".[").split(".")
        if not equals or not all(keys):
            raise ValueError(f"override: expected key=value such as backbone.arch=mobilenet_v2, found {override!r}")
        path = keys if keys[0] in parts else [parts[0], *keys]
        if len(path) > MAX_DEPTH:
            raise ValueError(f"override: expected at most {MAX_DEPTH} nested keys, found {len(path)}")
        inner = {path[-1]: _value(text, f"override {override!r}")}
        for key in reversed(path[:-1]):
            inner = {key: inner}
        nested = merge(nested, inner)
    return nested


def split_overrides(text: str) -> tuple[str, tuple[str, ...]]:
    """Split ``NAME,key=value,...`` from a command line into the name and its overrides.

    A comma separates only outside of brackets and before ``key=``, since names, lists and mappings may contain commas.
    """
    name, *own = _joined(text, lambda piece: not is_override(piece))
    return name, tuple(own)


def split_list(text: str) -> list[str]:
    """Split a list of ``NAME,key=value,...`` at its commas, except at those before ``key=``."""
    return _joined(text, is_override)


def is_override(text: str) -> bool:
    """Whether an argument of a command line is an override ``key=value`` rather than a name."""
    return re.match(KEY, text) is not None


def _joined(text: str, belongs: Callable[[str], bool]) -> list[str]:
    """Split a text at the commas outside of brackets, then rejoin the pieces for which ``belongs`` is true to their
    predecessors."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += character
    parts = pieces[:1]
    for piece in pieces[1:]:
        if belongs(piece):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


def parse_part(key: str, text: str) -> Settings:
    """The settings of one part, with all defaults, from its form on a command line such as ``query_expansion,top=5``.

    Args:
        key: The kind of part, a key of :data:`objemb.registry.KINDS` such as ``rerank``.
        text: ``NAME,key=value,...``; values are written as in overrides, see :func:`load_config`.

    Raises:
        ValueError: A name or key is unknown (the error suggests the most similar known one), or a value is not YAML.
    """
    name, own = split_overrides(text)
    nested = parse_overrides(own, (key,))
    return registry.resolve(registry.KINDS[key], {"name": name, **nested.get(key, {})}, key)


def read_yaml(file: Path) -> dict[str, object]:
    """The settings in a file written by :func:`dump_config`. Raises ``ValueError`` if it does not contain a mapping."""
    settings = _parse(_text_of(file), str(file))
    if not isinstance(settings, Mapping):
        raise ValueError(f"{file}: expected settings, found {settings!r}")
    return dict(settings)


def dump_config(settings: Mapping[str, object]) -> str:
    """Settings as YAML text that :func:`load_config` can read."""
    text: str = yaml.dump(
        registry.plain(settings),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
    return text


def method_files() -> dict[str, Path]:
    """The methods that come with objemb, as a mapping from name to file."""
    return _files("methods")


def _files(folder: str) -> dict[str, Path]:
    """The configs in a subfolder of ``configs``, as a mapping from name to file. If objemb is installed, ``configs`` is
    inside the package, otherwise beside it."""
    package = Path(__file__).parent
    configs = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {f.stem: f for f in sorted((configs / folder).glob("*.yaml"))}


def _read(path: str | Path, folder: str, overrides: Sequence[str], parts: Sequence[str]) -> dict[str, object]:
    """Read a file, or the config of this name in ``folder``, and apply the overrides."""
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


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, object]:
    path = path.resolve()
    if path in seen:
        raise ValueError(f"base: expected no cycle, found {' -> '.join(p.name for p in (*seen, path))}")
    settings = _parse(_text_of(path), str(path))
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


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Patterns of the types of unquoted words, by first letter: YAML 1.2's core schema, except that ``007`` is text.

    PyYAML's own patterns follow YAML 1.1, which reads ``2024-01-01`` as a date, ``1:30:00`` as 5400, and ``no`` and
    ``on`` as booleans.
    """
    kinds = {
        "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
        "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        "int": (r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
        "float": (
            r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            "-+0123456789.",
        ),
        "merge": (r"<<", "<"),
    }
    patterns: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for kind, (pattern, firsts) in kinds.items():
        for first in firsts:
            patterns.setdefault(first, []).append((f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z")))
    return patterns


MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Reads the types of JSON only. A repeated key is an error, since one of its values would be lost without notice.

    Anchors are supported, but limited: a few lines of them could expand to billions of values, or refer to themselves.
    """

    yaml_implicit_resolvers = _resolvers()
    yaml_constructors: ClassVar[dict[str | None, object]] = {
        tag: build
        for tag, build in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def get_single_node(self) -> yaml.Node | None:
        root: yaml.Node | None = super().get_single_node()
        waiting, count = [] if root is None else [(root, 0)], 0
        while waiting:
            node, depth = waiting.pop()
            count += 1
            if count > MAX_VALUES or depth > MAX_DEPTH:
                raise ValueError(f"expected at most {MAX_VALUES} values, nested {MAX_DEPTH} deep, found more")
            if isinstance(node, yaml.MappingNode):
                waiting += [(inner, depth + 1) for pair in node.value for inner in pair]
            elif isinstance(node, yaml.SequenceNode):
                waiting += [(inner, depth + 1) for inner in node.value]
        return root

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # the base class refuses others
                if key in seen:
                    line = node.start_mark.line + 1
                    raise ValueError(f"expected each key once, found {key!r} twice (mapping at line {line})")
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that :class:`_Loader` would otherwise read as another type."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _text_of(file: Path) -> str:
    """The text of a YAML file in UTF-8, or in UTF-16 with a byte order mark."""
    content = file.read_bytes()
    if len(content) > MAX_BYTES:
        raise ValueError(f"{file}: expected a config of at most {MAX_BYTES:,} bytes, found {len(content):,}")
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected UTF-8, found {error}; save the file as UTF-8") from error


def _parse(text: str, where: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecursionError as error:
        raise ValueError(f"{where}: expected YAML, found too many nested brackets") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{where}: expected YAML, found: {' '.join(str(error).split())}") from error


def _value(text: str, where: str) -> object:
    """The value of an override. Lists, mappings and quoted texts are parsed as YAML, anything else as a single scalar,
    so that `` #`` does not start a comment and paths need no quotes.

    Raises:
        ValueError: The value is empty or not YAML.
    """
    text = text.strip()
    if not text:
        raise ValueError(f"{where}: expected a value, found none (is a shell variable not set?)")
    if text[0] in "[{\"'":
        return _parse(text, where)
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # untyped in PyYAML
    try:
        return loader.construct_object(yaml.ScalarNode(tag, text))
    except ValueError as error:  # a number with thousands of digits
        raise ValueError(f"{where}: expected a value, found {error}") from error
