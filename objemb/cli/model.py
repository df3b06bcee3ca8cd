"""`objemb model build`, `list`, `info` and `push`."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from objemb.cli.boxes import reporting_boxes, stored_boxes
from objemb.cli.errors import SKIPPED, guarded
from objemb.cli.options import Device, Json, check_whitening, methods
from objemb.cli.output import human_bytes, note, note_untrained, print_json, print_pairs, print_table
from objemb.cli.progress import Progress

if TYPE_CHECKING:
    from objemb.detectors.stored_boxes import StoredBoxes
    from objemb.images.sources import SkippedImage
    from objemb.models import Model
    from objemb.runtimes.exported import Exported
    from objemb.types import Settings

#: The method of networks that were trained in Detectron2.
DETECTRON2 = "detectron2"

app = typer.Typer(help="Build a model folder from a method, and inspect one.", no_args_is_help=True)


@app.command("build")
@guarded
def build(
    config: Annotated[
        str,
        typer.Argument(
            help="A method: a YAML file, or a name such as hard_attention_crop.",
            autocompletion=methods,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as backbone.arch=mobilenet_v2."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Model folder to create.")],
    fit_on: Annotated[
        list[Path] | None,
        typer.Option(help="Photos to fit parts of the method on (codebooks, bases); not those of an evaluation."),
    ] = None,
    whiten_on: Annotated[
        list[Path] | None,
        typer.Option(
            help="Photos to fit a PCA whitening on, and parts if --fit-on is not given; not those of an evaluation."
        ),
    ] = None,
    whiten_pairs: Annotated[
        Path | None,
        typer.Option(help="Learn the whitening from pairs: an evaluation set (JSON), or a folder per instance."),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="COCO file with boxes of the photos of --fit-on and --whiten-on.")
    ] = None,
    whiten_dim: Annotated[int | None, typer.Option(help="Dimensions to keep.  [all]")] = None,
    whiten_power: Annotated[
        float | None,
        typer.Option(help="Shrinkage: 0.5 for PCA whitening, 0 for rotation only.  [0.5; 0 with --whiten-pairs]"),
    ] = None,
    whiten_ridge: Annotated[
        float,
        typer.Option(help="With --whiten-pairs: share of the mean variance added to each; about 1 for few pairs."),
    ] = 0.0,
    config_file: Annotated[
        Path | None,
        typer.Option(help="With CONFIG detectron2: config of a network that was trained in Detectron2."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="With --config-file: its weights (model_final.pth).")] = None,
    classes: Annotated[
        str | None, typer.Option(help="With --config-file: names of its classes, separated by commas.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Build a model folder from a method, with its weights and fitted parts.

    If no box of --boxes can be used, no model is written. Exit code 3 if photos were used without their boxes because
    those do not fit the photos.
    """
    from objemb.card import check_free
    from objemb.config import load_config
    from objemb.models import build_model, save_model
    from objemb.models.fitting import expect_whitening

    if boxes is not None and not whiten_on and not fit_on:
        raise ValueError("--boxes: expected together with --fit-on PHOTOS or --whiten-on PHOTOS, found alone")
    check_whitening(whiten_on, whiten_pairs, whiten_dim, whiten_ridge)
    check_free(output, force)  # checked before weights are downloaded and photos described
    if config == DETECTRON2:
        settings: Settings = _of_detectron2(config_file, weights, classes, overrides or [])
    elif config_file is None and weights is None and classes is None:
        settings = load_config(config, overrides or [])
    else:
        raise ValueError(f"--config-file, --weights, --classes: expected with {DETECTRON2} alone, found {config}")
    with Progress() as display:
        display.meter("building", "parts", None)
        model = build_model(settings, device=device, command=["objemb", *sys.argv[1:]])
    note_untrained(model)
    default = 0.0 if whiten_pairs is not None else 0.5
    power = default if whiten_power is None else whiten_power
    if whiten_on or whiten_pairs is not None:
        expect_whitening(model, whiten_dim, power)
    given = stored_boxes(boxes, model)
    if fit_on and not model.pipeline.unfitted():
        raise ValueError(f"--fit-on: expected a method with parts to fit such as netvlad, found none in {config}")
    model = _fitted(model, given, fit_on, whiten_on, whiten_pairs, dim=whiten_dim, power=power, ridge=whiten_ridge)
    save_model(model, output, force=force)
    _show(output, as_json)
    if given is not None and given.in_doubt:
        raise typer.Exit(SKIPPED)


def _of_detectron2(
    config_file: Path | None, weights: Path | None, classes: str | None, overrides: list[str]
) -> Settings:
    """Settings of a model that gives what a network of Detectron2 gives; says what comes from where."""
    from objemb.config import merge, parse_overrides, resolve
    from objemb.models.detectron2 import settings_of

    if config_file is None or weights is None:
        raise ValueError("detectron2: expected --config-file FILE and --weights FILE, found one missing")
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    settings, origins = settings_of(config_file, weights, classes=names)
    for part, origin in origins.items():
        note(f"{part}: {origin}")
    return resolve(merge(settings, parse_overrides(overrides)))


def _fitted(
    model: Model,
    given: StoredBoxes | None,
    fit_on: list[Path] | None,
    whiten_on: list[Path] | None,
    whiten_pairs: Path | None,
    *,
    dim: int | None,
    power: float,
    ridge: float,
) -> Model:
    """The model with parts and whitening fitted on photos, with progress, as far as there are any."""
    from objemb.models import fit_learned_whitening, fit_parts, fit_whitening

    with reporting_boxes(given):
        if fit_on:
            with _fitting("fitting", fit_on, len(model.pipeline.unfitted())) as calls:
                model = fit_parts(model, fit_on, boxes=given, **calls)
        if whiten_on:
            with _fitting("fitting the whitening", whiten_on, len(model.pipeline.unfitted()) + 1) as calls:
                model = fit_whitening(model, whiten_on, boxes=given, dim=dim, power=power, **calls)
    if whiten_pairs is not None:
        with _fitting("fitting the whitening", [], 1) as calls:
            photo, skip = calls["on_photo"], calls["on_skip"]
            model = fit_learned_whitening(
                model, whiten_pairs, dim=dim, power=power, ridge=ridge, on_photo=photo, on_skip=skip
            )
    return model


class _Callbacks(TypedDict):
    """What the functions of :mod:`objemb.models.fitting` call."""

    on_photo: Callable[[], None]
    on_step: Callable[[int, int], None]
    on_skip: Callable[[SkippedImage], None]


@contextlib.contextmanager
def _fitting(what: str, photos: list[Path], rounds: int) -> Iterator[_Callbacks]:
    """A progress display for photos that are described ``rounds`` times, with the callbacks that update it."""
    from objemb.images.sources import find_images

    with Progress() as display:
        total = rounds * sum(1 for _ in find_images(photos)) if photos and display.counts else None
        meter = display.meter(what, "images", total)
        rounds_done = meter

        def on_photo() -> None:
            display.resume(meter)
            meter.step()

        def on_step(done: int, of: int) -> None:
            nonlocal rounds_done
            if done == 1:
                rounds_done = display.meter("k-means", "rounds", of)
            rounds_done.step()

        yield {
            "on_photo": on_photo,
            "on_step": on_step,
            "on_skip": lambda skipped: note(f"skipped {skipped.path}: {skipped.reason}"),
        }


@app.command("list")
@guarded
def list_methods(as_json: Json = False) -> None:
    """List the methods of `objemb model build`, and the plug-ins of other packages."""
    from objemb.checks import nearest
    from objemb.config import method_files
    from objemb.registry import KINDS, outside

    abouts = {name: _about(file) for name, file in method_files().items()}
    brought = outside()
    if as_json:
        plugins = [
            {"kind": o.kind, "name": o.name, "package": o.package, "version": o.version, "object": o.entry.value}
            for o in brought
        ]
        print_json({"methods": [{"name": name, "about": about} for name, about in abouts.items()], "plugins": plugins})
        return
    print_table(("method", "what it does"), abouts.items())
    if brought:
        print_table(("kind", "plug-in", "from"), ((o.kind, o.name, o) for o in brought))
    kinds = set(KINDS.values())
    for origin in brought:
        if origin.kind not in kinds:
            note(f"{origin}: unknown kind of plug-in {origin.kind!r}{nearest(origin.kind, kinds)}")


def _about(file: Path) -> str:
    """The first sentence of the comment at the top of a config."""
    lines = itertools.takewhile(lambda line: line.startswith("# "), file.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.removeprefix("# ").strip() for line in lines)
    return re.split(r"(?<=[a-z0-9)]{2})\.(?= |$)", text)[0]


@app.command("info")
@guarded
def info(model: Annotated[Path, typer.Argument(help="A model folder.")], as_json: Json = False) -> None:
    """Show settings, size, fingerprint and origin of a model. Only its card is read."""
    _show(model, as_json)


@app.command("to-detectron2")
@guarded
def to_detectron2(
    model: Annotated[Path, typer.Argument(help="A model folder: a one_pass with a detectron2_rcnn.")],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to create.")],
    windows_from_input: Annotated[
        bool,
        typer.Option(
            "--windows-from-input",
            help="Write a model that cuts windows from photos, too: Detectron2 cuts them from the network's input, and "
            "vectors differ.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a model as Detectron2 opens it: config.yaml and model_final.pth."""
    from objemb.models import load_model
    from objemb.models.detectron2 import write_detectron2

    folder = write_detectron2(load_model(model), output, windows_from_input=windows_from_input)
    if as_json:
        print_json({"model": str(model), "detectron2": str(folder)})
        return
    print("from objemb.detectors.detectron2_rcnn import embedding_config")
    print(f"predictor = DefaultPredictor(embedding_config({str(folder / 'config.yaml')!r}))")


@app.command("push")
@guarded
def push(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    place: Annotated[
        str, typer.Argument(metavar="hf:ORG/NAME", help="The repository; hf:ORG/NAME@BRANCH for a branch.")
    ],
    *,
    license: Annotated[str, typer.Option(help="Of the weights, as the hub calls it, such as apache-2.0.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "",
    as_json: Json = False,
) -> None:
    """Upload a model folder to the Hugging Face Hub, with a model card. Whoever reads it says --model hf:ORG/NAME."""
    from objemb.models.hub import push_model

    address = push_model(model, place, license=license, private=private, message=message)
    if as_json:
        print_json({"model": str(model), "place": place, "commit": address})
    else:
        print(f"{place}: {address}")


def _show(folder: Path, as_json: bool) -> None:
    from objemb.card import read_card
    from objemb.config import dump_config
    from objemb.models.hub import model_folder
    from objemb.models.origins import described, recorded
    from objemb.runtimes.exported import EXPORT, Exported

    folder = model_folder(folder)
    card = read_card(folder)
    provenance = card.get("provenance", {})
    exported = Exported.of_card(card, folder) if EXPORT in card else None
    origins = described(card["settings"], provenance) if exported is None else recorded(provenance)
    plugins = (provenance.get("plugins") or {}).items()
    if as_json:
        print_json({"path": str(folder), **card, "origins": origins})
        return
    size = sum(f["bytes"] for f in card["files"].values())
    print_pairs(
        [
            ("model", folder),
            ("fingerprint", card["fingerprint"]),
            ("dimension", card.get("dim")),
            *((f"fitted {k}", v["fitted_on"]) for k, v in card.get("fitted", {}).items()),
            ("whitening", card.get("whitening") or "none"),
            ("size", human_bytes(size)),
            *(() if exported is None else _about_graphs(exported)),
            *((f"weights of {k}", v) for k, v in origins.items()),
            *((f"plug-in {k}", f"{v.get('name')} of {v.get('package')} {v.get('version')}") for k, v in plugins),
            ("made by", shlex.join(map(str, provenance.get("command") or [])) or "unknown"),
            ("created", provenance.get("created", "unknown")),
        ]
    )
    print("settings:")
    print("\n".join(f"  {line}" for line in dump_config(card["settings"]).splitlines()))


def _about_graphs(exported: Exported) -> list[tuple[str, object]]:
    """What there is to say of the graphs of an exported model."""
    size = "any size" if exported.size is None else f"{exported.size[1]} x {exported.size[0]} pixels"
    photos = f"{exported.batch} at once, {size}, at most {exported.max_detections} boxes each"
    verified = [
        f"by {name}, on {measured.get('on', 'photos')}, "
        + ", ".join(f"{key} {value}" for key, value in measured.items() if isinstance(value, int | float))
        for name, measured in exported.verified.items()
        if isinstance(measured, dict) and "photos" in measured
    ]
    return [
        ("exported to", f"{exported.format}, {exported.precision}"),
        ("photos", photos),
        *(("verified", text) for text in verified or ["yes" if exported.verified else "no"]),
    ]
