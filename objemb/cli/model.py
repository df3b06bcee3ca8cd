"""`objemb model build` and `objemb model info`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from objemb.cli.boxes import stored_boxes
from objemb.cli.errors import guarded
from objemb.cli.options import Device, Json
from objemb.cli.output import Meter, human_bytes, note, print_json, print_pairs, progress

app = typer.Typer(help="Make a model folder from a method, and look into one.", no_args_is_help=True)


@app.command("build")
@guarded
def build(
    config: Annotated[str, typer.Argument(help="A method: a YAML file, or a name such as hard_attention_crop.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For instance backbone.arch=mobilenet_v2")
    ] = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    whiten_on: Annotated[
        list[Path] | None, typer.Option(help="Photos to fit a PCA whitening on; not those that will be evaluated.")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="COCO file with boxes of the --whiten-on photos.")] = None,
    whiten_dim: Annotated[int | None, typer.Option(help="Dimensions to keep; default all.")] = None,
    whiten_power: Annotated[float, typer.Option(help="Shrinkage: 0.5 whitens, 0 only rotates.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there.")] = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Make a model folder: settings, weights, whitening, fingerprint."""
    from objemb.config import load_config
    from objemb.images.sources import find_images
    from objemb.models import build_model, fit_whitening, save_model
    from objemb.models.folder import check_free

    if not whiten_on and (boxes is not None or whiten_dim is not None):
        raise ValueError("--boxes and --whiten-dim: expected together with --whiten-on PHOTOS, found alone")
    check_free(output, force)  # told before weights are fetched and photos described
    settings = load_config(config, overrides or [])
    model = build_model(settings, device=device, command=["objemb", *sys.argv[1:]])
    if whiten_on:
        with progress(quiet=as_json) as display:
            total = sum(1 for _ in find_images(whiten_on)) if not display.disable else None
            meter = Meter(display, "describing for the whitening", "images", total)
            model = fit_whitening(
                model,
                whiten_on,
                boxes=stored_boxes(boxes, model),
                dim=whiten_dim,
                power=whiten_power,
                on_photo=meter.step,
                on_skip=lambda skipped: note(f"skipped {skipped.path}: {skipped.reason}"),
            )
    save_model(model, output, force=force)
    _show(output, as_json)


@app.command("info")
@guarded
def info(model: Annotated[Path, typer.Argument(help="A model folder.")], as_json: Json = False) -> None:
    """Settings, size, fingerprint and origin of a model. Nothing is loaded but its card."""
    _show(model, as_json)


def _show(folder: Path, as_json: bool) -> None:
    from objemb.config import dump_config
    from objemb.models.folder import read_card

    card = read_card(folder)
    if as_json:
        print_json({"path": str(folder), **card})
        return
    size = sum(f["bytes"] for f in card["files"].values())
    print_pairs(
        [
            ("model", folder),
            ("fingerprint", card["fingerprint"]),
            ("dimension", card.get("dim")),
            ("whitening", card.get("whitening") or "none"),
            ("size", human_bytes(size)),
            *((f"origin of {k}", v) for k, v in card.get("provenance", {}).get("weights", {}).items()),
        ]
    )
    print("settings:")
    print("\n".join(f"  {line}" for line in dump_config(card["settings"]).splitlines()))
