"""The rows of an evaluation: methods from the command line, opened, fitted, and what they learned from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.cli.boxes import reporting_boxes, stored_boxes
from objemb.cli.output import note, note_untrained
from objemb.config import is_override, load_config, parse_part, split_list, split_overrides
from objemb.models import Model, build_model, fit_learned_whitening, fit_parts, fit_whitening, load_model
from objemb.models.build import reranked
from objemb.models.fitting import expect_whitening


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        text: As it was named on the command line.
        path: A config or a model folder.
        own: Key=value for it alone.
        settings: None for a model folder.
        parts: So many names at the end of the path say which one it is.
    """

    text: str
    path: str
    own: tuple[str, ...]
    settings: dict[str, object] | None
    parts: int = 1

    @property
    def name(self) -> str:
        """For tables."""
        path = Path(*Path(self.path).parts[-self.parts :])
        return ", ".join((path.as_posix().removesuffix(".yaml"), *self.own))

    @staticmethod
    def parse(text: str, shared: Sequence[str]) -> Method:
        """A config or a model folder, with key=value of its own behind commas."""
        path, own = split_overrides(text)
        if not Path(path).is_dir():
            return Method(text, path, own, load_config(path, (*shared, *own)))
        if own:
            raise ValueError(f"{path}: expected a config for {', '.join(own)}, found a model folder")
        return Method(text, path, (), None)


def parse_methods(positional: Sequence[str], listed: str | None) -> list[Method]:
    """All methods of a command line, each name once: ``runs/a/model`` beside ``runs/b/model`` is called ``a/model``.

    Args:
        positional: METHOD and KEY=VALUE arguments; the latter hold for all methods.
        listed: What ``--methods`` says: methods with commas between.
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
        text: Its name, as it stands on the command line or in the table, or its place among the methods, from 1 on.
        methods: All methods of the command line.

    Raises:
        ValueError: There is no such method, or no other one beside it.
    """
    if len(methods) == 1:
        raise ValueError(f"--reference: expected a method to compare with it, found {methods[0].name} alone")
    for method in methods:
        if text in (method.text, method.name):
            return method
    if text.isdecimal() and 1 <= int(text) <= len(methods):
        return methods[int(text) - 1]
    names = [m.name for m in methods]
    raise ValueError(
        f"--reference: expected one of {checks.listed(names)}, or its place from 1 to {len(methods)}, "
        f"found {text!r}{checks.nearest(text, names)}"
    )


def _more_than_once(methods: Sequence[Method]) -> list[str]:
    names = [m.name for m in methods]
    return sorted({name for name in names if names.count(name) > 1})


def open_model(method: Method, args: argparse.Namespace) -> Model:
    """The model of a row, with what it learns from photos before it describes any."""
    if method.settings is None:
        model = load_model(method.path, args.device, args.precision)
    else:
        model = build_model(method.settings, device=args.device, precision=args.precision)
    note_untrained(model)
    model = _fitted(model, args)
    return reranked(model, [parse_part("rerank", text) for text in args.rerank]) if args.rerank else model


def _fitted(model: Model, args: argparse.Namespace) -> Model:
    """The model with what it learns from other photos."""
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
