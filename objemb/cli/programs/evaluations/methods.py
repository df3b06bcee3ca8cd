"""The rows of an evaluation: methods named on the command line, opened and fitted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.card import read_card
from objemb.cli.boxes import reporting_boxes, stored_boxes
from objemb.cli.output import note, note_untrained
from objemb.config import is_override, load_config, parse_part, split_list, split_overrides
from objemb.models import (
    EmbeddingModel,
    Model,
    build_model,
    fit_learned_whitening,
    fit_parts,
    fit_whitening,
    load_model,
)
from objemb.models.exported import ExportedModel, open_exported
from objemb.models.fitting import expect_whitening
from objemb.runtimes.exported import EXPORT
from objemb.types import Settings


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        text: The method as given on the command line.
        path: A config or a model folder.
        own: Overrides (``key=value``) for this method only.
        settings: Resolved settings of a config; None for a model folder.
        parts: Number of trailing parts of the path that its name consists of.
    """

    text: str
    path: str
    own: tuple[str, ...]
    settings: Settings | None
    parts: int = 1

    @property
    def name(self) -> str:
        """The name of the method in tables."""
        path = Path(*Path(self.path).parts[-self.parts :])
        return ", ".join((path.as_posix().removesuffix(".yaml"), *self.own))

    @staticmethod
    def parse(text: str, shared: Sequence[str]) -> Method:
        """Parse a config or a model folder, optionally followed by its own overrides, separated by commas."""
        path, own = split_overrides(text)
        if not Path(path).is_dir():
            return Method(text, path, own, load_config(path, (*shared, *own)))
        if own:
            raise ValueError(f"{path}: expected a config for {', '.join(own)}, found a model folder")
        return Method(text, path, (), None)


def parse_methods(positional: Sequence[str], listed: str | None) -> list[Method]:
    """All methods of a command line, with unique names: ``runs/a/model`` and ``runs/b/model`` become ``a/model`` and
    ``b/model``.

    Args:
        positional: METHOD and KEY=VALUE arguments; the latter apply to all methods.
        listed: The value of ``--methods``: methods separated by commas.
    """
    shared = tuple(a for a in positional if is_override(a))
    texts = [a for a in positional if not is_override(a)] + (split_list(listed) if listed else [])
    methods = [Method.parse(text, shared) for text in texts]
    if not methods:
        raise ValueError("METHOD: expected at least one config or model folder, found none")
    if shared and all(m.settings is None for m in methods):
        raise ValueError(f"METHOD: expected a config for {', '.join(shared)}, found model folders only")
    longest = max(len(Path(m.path).parts) for m in methods)
    for parts in range(2, longest + 1):
        twice = _more_than_once(methods)
        methods = [replace(m, parts=parts) if m.name in twice else m for m in methods]
    if twice := _more_than_once(methods):
        raise ValueError(f"METHOD: expected different methods, found {', '.join(twice)} more than once")
    return methods


def find_reference(text: str, methods: Sequence[Method]) -> Method:
    """The method that the others are compared with.

    Args:
        text: Its name, as on the command line or in the table, or its position among the methods, counted from 1.
        methods: All methods of the command line.

    Raises:
        ValueError: There is no such method, or it is the only one.
    """
    if len(methods) == 1:
        raise ValueError(f"--reference: expected at least two methods to compare, found only {methods[0].name}")
    for method in methods:
        if text in (method.text, method.name):
            return method
    if text.isdecimal() and 1 <= int(text) <= len(methods):
        return methods[int(text) - 1]
    names = [m.name for m in methods]
    raise ValueError(
        f"--reference: expected one of {checks.listed(names)}, or its position from 1 to {len(methods)}, "
        f"found {text!r}{checks.nearest(text, names)}"
    )


def _more_than_once(methods: Sequence[Method]) -> list[str]:
    names = [m.name for m in methods]
    return sorted({name for name in names if names.count(name) > 1})


def open_model(method: Method, args: argparse.Namespace) -> EmbeddingModel:
    """The model of a row, fitted on the photos that the command line names."""
    steps = [parse_part("rerank", text) for text in args.rerank]
    if method.settings is None and EXPORT in read_card(method.path):
        exported = _open_exported(method, args)
        return exported.reranked(steps) if steps else exported
    if method.settings is None:
        model = load_model(method.path, args.device, args.precision)
    else:
        model = build_model(method.settings, device=args.device, precision=args.precision)
    note_untrained(model)
    model = _fitted(model, args)
    return model.reranked(steps) if steps else model


def _open_exported(method: Method, args: argparse.Namespace) -> ExportedModel:
    """An exported model, which was fitted before, in what the command line says."""
    fitting = [name for name in ("fit_on", "whiten_on", "whiten_pairs") if getattr(args, name)]
    if fitting:
        option = "--" + fitting[0].replace("_", "-")
        raise ValueError(f"{option}: expected a model that runs in PyTorch, found the exported one {method.path}")
    checks.one_of("device of an exported model", args.device, ("cpu",))
    model = open_exported(method.path, runtime=args.runtime, precision=args.exported_precision)
    note_untrained(model)
    return model


def _fitted(model: Model, args: argparse.Namespace) -> Model:
    """The model with its codebooks and bases, and a whitening, fitted on other photos."""
    calls: dict[str, Any] = {
        "workers": args.workers,
        "on_skip": lambda skipped: note(f"fitting: {skipped.path}: {skipped.reason}"),
    }
    whitens = {"dim": args.whiten_dim}
    if args.whiten_power is not None:
        whitens["power"] = args.whiten_power
    boxes = stored_boxes(args.whiten_boxes, model)
    if args.whiten_on or args.whiten_pairs:
        expect_whitening(model, args.whiten_dim, whitens.get("power", 0.0))
    with reporting_boxes(boxes):
        if args.fit_on:
            model = fit_parts(model, args.fit_on, boxes=boxes, **calls)
        if args.whiten_on:
            model = fit_whitening(model, args.whiten_on, boxes=boxes, **whitens, **calls)
    if args.whiten_pairs:
        model = fit_learned_whitening(model, args.whiten_pairs, ridge=args.whiten_ridge, **whitens, **calls)
    return model
