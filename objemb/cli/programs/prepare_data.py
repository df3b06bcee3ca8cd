"""Make data sets: generated scenes, your own product pictures pasted onto your own photos, the photos of collected
classes that show the same thing, or the evaluation set of a downloaded benchmark or of your own photos.

objemb prepare-data scenes -o scenes --size 256
objemb prepare-data compose --objects cutouts --backgrounds photos -o composed --count 2000
objemb prepare-data clean collected -o cleaned --workers 2
objemb prepare-data roxford5k --root roxford5k
objemb prepare-data folder --root my_photos
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from objemb import registry
from objemb.cli.program import Listed
from objemb.cli.progress import Progress
from objemb.datasets import benchmarks
from objemb.datasets.benchmarks.base import Benchmark
from objemb.datasets.cleaning import CleaningSettings, GlobalDescriptor, clean
from objemb.datasets.compose import ComposeSettings, compose
from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.datasets.preview import preview_sheet
from objemb.datasets.scenes import SPLITS, Scenes, SceneSettings
from objemb.disk import replacing
from objemb.evaluation.sizes import SIZES, side_shares, size_classes
from objemb.images import ImageRef
from objemb.models import open_model
from objemb.structures import RegionDescriptors
from objemb.types import Float32Array

PROGRAM = "objemb prepare-data"
S = TypeVar("S", SceneSettings, ComposeSettings, CleaningSettings)


def parser() -> argparse.ArgumentParser:
    """The command line, with an option for every setting."""
    top = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    scenes = commands.add_parser("scenes", help="generated scenes of product-like objects")
    scenes.add_argument("--splits", nargs="+", action=Listed, choices=SPLITS, default=list(SPLITS))
    scenes.add_argument(
        "--format", choices=("jpg", "png"), default="jpg", help="file format of the pictures (default: jpg)"
    )
    composed = commands.add_parser("compose", help="your own product pictures pasted onto your own photos")
    composed.add_argument(
        "--objects", nargs="+", action=Listed, required=True, help="cut-outs or crops: folders, lists, images"
    )
    composed.add_argument("--backgrounds", nargs="+", action=Listed, required=True, help="photos without products")
    composed.add_argument(
        "--distractors", nargs="+", action=Listed, default=[], help="cut-outs of other things, which are not labelled"
    )
    composed.add_argument(
        "--names", help="instance names: a table with the columns path and instance, JSON, or an evaluation set"
    )
    cleaned = commands.add_parser("clean", help="photos of collected classes that show the same thing, and its boxes")
    cleaned.add_argument(
        "sources", nargs="+", help="folders with a sub-folder for each class, or lists with a column instance"
    )
    cleaned.add_argument("--names", help="class names: a table with the columns path and instance, JSON")
    cleaned.add_argument(
        "--model", help="model whose vectors of whole photos find the --candidates, as objemb index takes it"
    )
    cleaned.add_argument("--device", default="auto", help="device of that model (default: auto)")
    for command, settings in ((scenes, SceneSettings), (composed, ComposeSettings), (cleaned, CleaningSettings)):
        command.add_argument("-o", "--output", type=Path, required=True, help="folder of the data set")
        command.add_argument("--workers", type=int, default=1, help="processes (1)")
        add_settings(command, settings)
    for name in benchmarks.names():
        add_benchmark(commands, name)
    return top


def add_benchmark(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    """A command for a benchmark, with an option for each of its arguments."""
    cls = registry.load(Benchmark, name)
    text = inspect.getdoc(cls) or ""
    command = commands.add_parser(
        name,
        help=text.partition("\n")[0].replace("%", "%%"),
        description=f"{text.partition(chr(10) * 2)[0]}\n\n{cls.layout}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--root", type=Path, required=True, help="folder of the downloaded files; nothing is downloaded"
    )
    command.add_argument("-o", "--output", type=Path, metavar="JSON", help=f"file to write (default: ROOT/{name}.json)")
    command.add_argument(
        "--distractors", type=Path, metavar="DIR", help="further images, which are not relevant to any query"
    )
    texts = dict(re.findall(r"^    (\w+): (.+?)(?=^    \w+: |\Z)", text, re.MULTILINE | re.DOTALL))
    for key, argument in registry.arguments(cls).items():
        command.add_argument(
            "--" + key.replace("_", "-"),
            default=argument.default,
            type=type(argument.default),
            help=" ".join(texts.get(key, "").split()).replace("%", "%%"),
        )


def add_settings(
    command: argparse.ArgumentParser, settings: type[SceneSettings] | type[ComposeSettings] | type[CleaningSettings]
) -> None:
    """An option for each field of a settings class, with the text of its docstring."""
    texts = dict(re.findall(r"^        (\w+): (.+?)$", settings.__doc__ or "", re.MULTILINE))
    group = command.add_argument_group("settings")
    for field in dataclasses.fields(settings):
        options: dict[str, Any] = {
            "type": int if field.default is None else type(field.default),
            "help": texts.get(field.name, "").replace("``", "") + f" ({field.default})" * (field.default is not None),
        }
        if isinstance(field.default, bool):
            options |= {"action": argparse.BooleanOptionalAction}
            del options["type"]
        elif isinstance(field.default, tuple):
            words = not field.default or isinstance(field.default[0], str)
            options |= {
                "nargs": "+" if words else 2,
                **({"action": Listed} if words else {}),
                "type": str if words else type(field.default[0]),
            }
        options["help"] = options["help"].replace("%", "%%")
        group.add_argument("--" + field.name.replace("_", "-"), default=field.default, **options)


def read_settings(settings: type[S], options: argparse.Namespace) -> S:
    """The settings given by the options."""
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(settings)}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return settings(**given)


def make_scenes(options: argparse.Namespace) -> dict[str, Any]:
    """Write the splits of the generated scenes and a preview of the first."""
    settings = read_settings(SceneSettings, options)
    splits = {name: Scenes(settings, name) for name in options.splits}
    report: dict[str, Any] = {}
    with Progress() as display:
        meter = display.meter("drawing", "scenes", sum(map(len, splits.values())))
        for name, scenes in splits.items():
            report[name] = scenes.write(options.output, options.workers, format=options.format, advance=meter.step)
            report[name]["sizes"] = object_sizes(report[name]["instances"])
    shown = next((s for s in splits.values() if len(s)), None)
    if shown is not None:
        with replacing(options.output / "preview.png") as partial:
            preview_sheet(shown).save(partial)
    return report


def make_compositions(options: argparse.Namespace) -> dict[str, Any]:
    """Write the data set of products on photos."""
    settings = read_settings(ComposeSettings, options)
    with Progress() as display:
        meter = display.meter("composing", "scenes", sum(settings.counts.values()))
        report = compose(
            options.objects,
            options.backgrounds,
            options.output,
            settings,
            distractors=options.distractors,
            names=options.names,
            workers=options.workers,
            advance=meter.step,
        )
    for split in SPLITS:
        if split in report:
            report[split]["sizes"] = object_sizes(report[split]["instances"])
    return report


def make_clean(options: argparse.Namespace) -> dict[str, object]:
    """Keep the photos of each class that show the same thing."""
    settings = read_settings(CleaningSettings, options)
    if (settings.candidates is None) != (options.model is None):
        raise ValueError(
            "clean: expected --candidates together with --model, which finds the most similar photos, found only "
            + ("--model" if settings.candidates is None else "--candidates")
        )
    descriptor = None if options.model is None else global_descriptor(options.model, options.device)
    with Progress() as display:
        return clean(
            options.sources,
            options.output,
            settings,
            names=options.names,
            descriptor=descriptor,
            workers=options.workers,
            meters=lambda what, unit, total: display.meter(what, unit, total).step,
        )


def global_descriptor(name: str, device: str) -> GlobalDescriptor:
    """The vectors that a model gives whole photos."""
    model = open_model(name, device)
    if model.gives is not RegionDescriptors:
        raise ValueError(f"--model: expected a model of vectors, found {name}, which gives {model.gives.__name__}")

    def describe(paths: Sequence[str]) -> dict[str, Float32Array]:
        refs = [ImageRef(str(number), Path(path)) for number, path in enumerate(paths)]
        rows = model.stream(refs, max_regions=0 if model.has_detector else None)
        # a photo that cannot be described takes no part
        return {paths[int(row.image)]: row.vectors[0] for row in rows if isinstance(row, RegionDescriptors)}

    return GlobalDescriptor(model.fingerprint, describe)


def object_sizes(instances: str | Path) -> dict[str, int]:
    """The number of boxes of a COCO file by size, with the names of :data:`objemb.evaluation.sizes.SIZES`."""
    coco = json.loads(Path(instances).read_bytes())
    photos = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    boxes = np.array([a["bbox"] for a in coco["annotations"]], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    sizes = np.array([photos[a["image_id"]] for a in coco["annotations"]], dtype=float).reshape(-1, 2)
    counts = np.bincount(size_classes(side_shares(boxes, sizes)), minlength=len(SIZES)).tolist()
    return dict(zip(SIZES, counts, strict=True))


def make_benchmark(options: argparse.Namespace) -> dict[str, object]:
    """Check and convert a benchmark."""
    given = vars(options)
    own = {key: given[key] for key in registry.arguments(registry.load(Benchmark, options.command))}
    path = benchmarks.prepare(
        options.command, options.root, output=options.output, distractors=options.distractors, **own
    )
    data = read_evaluation_set(path)
    return {
        "file": str(path),
        "name": data.name,
        "protocol": data.protocol.name,
        "images": len(data.images) - data.distractors,
        "objects": len(data.objects),
        "queries": len(data.queries),
        "distractors": data.distractors,
    }


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run a command; prints and returns a summary of what was written."""
    options = parser().parse_args(argv)
    make = {"scenes": make_scenes, "compose": make_compositions, "clean": make_clean}.get(
        options.command, make_benchmark
    )
    result = make(options)
    print(json.dumps(result, indent=1))
    return result
