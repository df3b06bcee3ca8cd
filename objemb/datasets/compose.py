"""Cut, paste and learn: a user's product pictures pasted onto photos, as a data set that needs no manual boxes.

After Dwibedi, Misra and Hebert, "Cut, Paste and Learn: Surprisingly Easy Synthesis for Instance Detection", ICCV 2017.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from objemb.coco.files import DISTRACTOR
from objemb.datasets.compose_settings import ComposeSettings
from objemb.datasets.compositions import QUERY_EVERY, Compositions
from objemb.datasets.cutouts import read_cutout
from objemb.datasets.ingredients import Pictures, SourcePicture, find_pictures, instance_names, split_names
from objemb.datasets.preview import preview_sheet
from objemb.datasets.writing import write_scenes
from objemb.disk import replacing, write_whole
from objemb.images import SkippedImage, UnreadableImageError, read_photo

__all__ = [
    "ComposeSettings",
    "Compositions",
    "Ingredients",
    "compose",
    "find_ingredients",
    "split_compositions",
]

#: Minimum length of the shorter side of a photo, in pixels.
SMALLEST_PHOTO = 32


def compose(
    objects: Sequence[str | Path],
    backgrounds: Sequence[str | Path],
    folder: str | Path,
    settings: ComposeSettings | None = None,
    *,
    distractors: Sequence[str | Path] = (),
    names: str | Path | None = None,
    workers: int = 1,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Make a data set of products on photos.

    Products are held out by instance and photos by file: neither is in both splits. The folder then contains
        ``images/``, ``instances_train.json``, ``instances_val.json``, ``retrieval_val.json`` (held-out products; query
        scenes are not in the database, and show pictures that it does not contain), ``pictures/`` (those pictures,
        which are also queries), ``preview.png`` and ``skipped.json`` (inputs that could not be used, with the reasons).

    Args:
        objects: Pictures of products: cut-outs with alpha, or crops.
        backgrounds: Photos without products.
        folder: The output folder, created if necessary.
        settings: Settings of the scenes.
        distractors: Pictures of other things.
        names: Instance names, see :func:`objemb.datasets.ingredients.instance_names`.
        workers: Number of processes; it does not affect the files.
        advance: Called with the number of scenes that were written since the last call.

    Returns:
        For each split, the output of :func:`objemb.datasets.writing.write_scenes` with its instances and photos; and
        paths.

    Raises:
        ValueError: There is no usable picture, or no usable photo.
    """
    settings, root = settings or ComposeSettings(), Path(folder)
    ingredients = find_ingredients(objects, backgrounds, settings, distractors=distractors, names=names)
    root.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {}
    for split, part in split_compositions(ingredients, settings).items():
        written = write_scenes(
            part,
            root,
            split,
            workers=workers,
            about={"description": "products pasted onto photos", "settings": asdict(settings)},
            query_every=part.query_every,
            queries_apart=True,
            advance=advance,
        )
        report[split] = written | {"names": list(part.instances), "photos": len(part.photos)}
        if split == "train" and len(part):
            with replacing(root / "preview.png") as partial:
                preview_sheet(part).save(partial)
            report["preview"] = str(root / "preview.png")
    skipped = [s.to_json() for s in ingredients.skipped]
    write_whole(root / "skipped.json", json.dumps(skipped, indent=1))
    return report | {"skipped": len(skipped), "skipped_list": str(root / "skipped.json")}


@dataclass(frozen=True)
class Ingredients:
    """The usable pictures and photos for scenes, and those that cannot be used.

    Attributes:
        products: Pictures of products with their instances.
        photos: Background photos.
        distractors: Pictures of other things.
        skipped: Pictures that cannot be used, with the reasons.
    """

    products: tuple[SourcePicture, ...]
    photos: tuple[SourcePicture, ...]
    distractors: tuple[SourcePicture, ...] = ()
    skipped: tuple[SkippedImage, ...] = ()


def find_ingredients(
    objects: Sequence[str | Path],
    backgrounds: Sequence[str | Path],
    settings: ComposeSettings,
    *,
    distractors: Sequence[str | Path] = (),
    names: str | Path | None = None,
) -> Ingredients:
    """All usable pictures and photos; see :func:`compose` for the arguments and errors."""
    products = _find_products(objects, settings, instance_names(names))
    photos = find_pictures(backgrounds, lambda path: _check_photo(path, settings), lambda ref: "")
    others = _find_products(distractors, settings, lambda ref: DISTRACTOR) if distractors else Pictures()
    for what, found in {"objects": products, "backgrounds": photos}.items():
        if not found.usable:
            reasons = "; ".join(f"{s.id}: {s.reason}" for s in found.skipped[:3]) or "no image"
            raise ValueError(f"{what}: expected at least one picture that can be used, found none ({reasons})")
    skipped = (*products.skipped, *photos.skipped, *others.skipped)
    return Ingredients(products.usable, photos.usable, others.usable, skipped)


def split_compositions(ingredients: Ingredients, settings: ComposeSettings) -> dict[str, Compositions]:
    """Scenes of the splits ``train`` and ``val``, which share no product and, if there are at least two photos, no
    photo.

    A split without products, or with zero scenes in the settings, is left out.
    """
    train_names, val_names = split_names(
        (p.instance for p in ingredients.products), settings.val_share, settings.held_out, settings.seed
    )
    _, val_photos = split_names((p.path for p in ingredients.photos), settings.val_share or 0.25, (), settings.seed)
    shown = {"train": set(train_names), "val": set(val_names)}
    parts = {}
    for split, instances in shown.items():
        below = [p for p in ingredients.photos if (p.path in val_photos) == (split == "val")] or ingredients.photos
        if not instances or (split == "val" and not settings.counts["val"]):
            continue
        chosen = [p for p in ingredients.products if p.instance in instances]
        query_every = QUERY_EVERY if split == "val" else None
        parts[split] = Compositions(settings, split, chosen, below, ingredients.distractors, query_every=query_every)
    return parts


def _find_products(
    sources: Sequence[str | Path], settings: ComposeSettings, name: Callable[[Any], str | None]
) -> Pictures:
    return find_pictures(sources, lambda path: read_cutout(path, cut=settings.cut, side=settings.card_side), name)


def _check_photo(path: Path, settings: ComposeSettings) -> None:
    photo = read_photo(path, side=settings.size)
    if min(photo.size) < SMALLEST_PHOTO:
        found = f"{photo.size[1]} x {photo.size[0]}"
        raise UnreadableImageError(f"expected sides of at least {SMALLEST_PHOTO} pixels, found {found}", str(path))
