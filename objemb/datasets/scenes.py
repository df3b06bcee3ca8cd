"""Procedural scenes of product-like objects: a data set for instance search that needs no download.

A *family* determines the appearance of a product (outline, base colours, pattern, layout); its *variants* differ in
accents, emblem and writing, and are hard negatives of each other. A family belongs to one split only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from objemb import checks
from objemb.datasets.render.backdrops import Backdrop, make_backdrop, make_occluder
from objemb.datasets.render.framing import frame_alone
from objemb.datasets.render.light import add_noise, cast, glare, light_field
from objemb.datasets.render.pasting import (
    Card,
    Patch,
    card_of,
    cast_shadow,
    corner_jitter,
    paste,
    place,
    to_pixels,
    warp,
)
from objemb.datasets.render.products import Family, draw_product, make_family
from objemb.datasets.render.silhouettes import SILHOUETTES
from objemb.datasets.render.stacking import VisibleObject, cover, keep_visible, large_behind
from objemb.datasets.scene import Scene, make_scene
from objemb.datasets.scene_settings import SPLITS, SceneSettings
from objemb.datasets.seeds import generator, is_alone, round_robin
from objemb.datasets.writing import write_scenes
from objemb.types import Float32Array, Float64Array, Uint8Array

__all__ = ["SPLITS", "Scene", "SceneSettings", "Scenes"]

#: Number of random places for an object, of which the one with the least overlap is chosen.
PLACES = 6
#: Every fifth scene of the validation and test split gives queries.
QUERY_EVERY = 5
#: White around a product in a catalogue, as a share of the scene's side.
CATALOGUE_MARGIN = 0.05


class Scenes:
    """The scenes of a split: ``scenes[i]`` renders scene ``i``, always with the same bytes, in any process and order.

    Args:
        settings: Settings of the scenes.
        split: ``train``, ``val`` or ``test``.
    """

    def __init__(self, settings: SceneSettings, split: str) -> None:
        self.settings = settings
        self.split = checks.one_of("split", split, SPLITS)
        count = settings.families(split) * settings.variants
        self.instances = tuple(instance_name(split, *divmod(n, settings.variants)) for n in range(count))
        self.categories = ("object",) if settings.category == "object" else tuple(SILHOUETTES)
        self._numbers = {name: number for number, name in enumerate(self.instances)}
        # each instance comes first in equally many scenes, so that none is left out
        self._leads = generator("leads", settings.seed, split).permutation(count).tolist()

    def __len__(self) -> int:
        return self.settings.scenes(self.split)

    def __getitem__(self, number: int) -> Scene:
        if not 0 <= number < len(self):
            raise IndexError(f"scene: expected a number from 0 to {len(self) - 1}, found {number}")
        rng = generator("scene", self.settings.seed, self.split, number)
        lead = round_robin(self._leads, number)
        if is_alone(self.settings.alone, self.settings.seed, self.split, number):
            return self._draw_alone(rng, lead)
        backdrop = make_backdrop(rng, self.settings.size, self.settings.clutter)
        labels = self._choose(rng, lead)
        patches = self._arrange(rng, labels, backdrop)
        order = large_behind(patches, (self.settings.size,) * 2)
        labels, patches = [labels[n] for n in order], [patches[n] for n in order]
        visible = keep_visible(patches, (self.settings.size,) * 2, self.settings.min_visibility)
        occluders, visible = self._occlude(rng, patches, visible)
        pixels = self._render(rng, backdrop.canvas, [patches[s.number] for s in visible], occluders)
        return self._scene(pixels, visible, [labels[s.number] for s in visible])

    def card(self, label: int, largest: float | None = None) -> Card:
        """The picture of an instance, for a size of at most ``largest`` as a share of the scene's side."""
        side = max(64, math.ceil(1.25 * (largest or self.settings.object_size[1]) * self.settings.size))
        return _card(self.settings.seed, self.split, *divmod(label, self.settings.variants), side)

    def pictures(self, instance: str) -> list[Image.Image]:
        """The catalogue picture of an instance: upright on white without lighting, with a narrow margin."""
        family, variant = divmod(self._numbers[instance], self.settings.variants)
        product = draw_product(_family(self.settings.seed, self.split, family), variant, self.settings.size)
        margin = round(CATALOGUE_MARGIN * self.settings.size)
        page = Image.new("RGB", (product.width + 2 * margin, product.height + 2 * margin), "white")
        page.paste(product, (margin, margin), product)
        return [page]

    def write(
        self, folder: str | Path, workers: int = 1, *, format: str = "jpg", advance: Callable[[int], None] | None = None
    ) -> dict[str, object]:
        """Write pictures and ``instances_<split>.json`` (COCO), and except for training, ``retrieval_<split>.json``.

        The queries of the retrieval set are objects in scenes, and the catalogue picture of each instance, in
        ``pictures/``.

        Args:
            folder: The output folder, created if necessary; files of the same names are replaced.
            workers: Number of processes; it does not affect the files.
            format: ``jpg`` or ``png`` (exact, but slower and larger).
            advance: Called with the number of scenes that were written since the last call.

        Returns:
            Paths and counts, see :func:`objemb.datasets.writing.write_scenes`.
        """
        about = {"description": "generated scenes of product-like objects", "settings": asdict(self.settings)}
        query_every = None if self.split == "train" else QUERY_EVERY
        return write_scenes(
            self,
            folder,
            self.split,
            workers=workers,
            format=format,
            about=about,
            query_every=query_every,
            advance=advance,
        )

    def _draw_alone(self, rng: np.random.Generator, label: int) -> Scene:
        """A scene with the picture of a single product, with its own light."""
        card = self.card(label, 1.0)
        canvas, quad = frame_alone(rng, card, self.settings.size)
        size = (canvas.shape[1], canvas.shape[2])
        patch = self._lit(rng, warp(card, quad, size))
        visible = keep_visible([patch], size, self.settings.min_visibility)
        return self._scene(self._render(rng, canvas, [patch], []), visible, [label])

    def _scene(self, pixels: Uint8Array, visible: list[VisibleObject], labels: list[int]) -> Scene:
        names = tuple(self.instances[n] for n in labels)
        return make_scene(pixels, visible, labels, names, tuple(self._category(n) for n in labels))

    def _category(self, label: int) -> str:
        if self.settings.category == "object":
            return "object"
        return _family(self.settings.seed, self.split, label // self.settings.variants).silhouette

    def _choose(self, rng: np.random.Generator, lead: int) -> list[int]:
        """Indices of the instances in a scene, ``lead`` first (in front)."""
        low, high = self.settings.objects_per_scene
        variants = self.settings.variants
        labels = [lead]
        while len(labels) < high:
            family = labels[-1] // variants
            if rng.random() >= self.settings.siblings:
                family = int(rng.integers(self.settings.families(self.split)))
            labels.append(family * variants + int(rng.integers(variants)))
        return labels[: int(rng.integers(low, high + 1))]

    def _arrange(self, rng: np.random.Generator, labels: list[int], backdrop: Backdrop) -> list[Patch]:
        """The objects placed on the shelf or on a surface, from front to back."""
        patches: list[Patch] = []
        boxes = np.zeros((0, 4))
        for label in labels:
            card = self.card(label)
            quads = [self._quad(rng, card, backdrop) for _ in range(PLACES)]
            quad = min(quads, key=lambda q: _overlap(q, boxes))
            boxes = np.concatenate([boxes, [[*quad.min(0), *quad.max(0)]]])
            patches.append(self._lit(rng, warp(card, quad, (self.settings.size,) * 2)))
        return patches

    def _quad(self, rng: np.random.Generator, card: Card, backdrop: Backdrop) -> Float64Array:
        """Corners of an object at a random place."""
        settings = self.settings
        side = settings.size * rng.uniform(*settings.object_size)
        turn = math.radians(rng.uniform(-settings.rotation, settings.rotation))
        if backdrop.floors:
            side, turn = min(side, backdrop.gap), turn / 10
        width, height = (side * s / max(card.size) for s in card.size)
        reach = min(settings.size, 0.9 * (abs(math.cos(turn)) * width + abs(math.sin(turn)) * height)) / 2
        x = rng.uniform(reach, settings.size - reach)
        if backdrop.floors:
            y = backdrop.floors[int(rng.integers(len(backdrop.floors)))] - height / 2
        else:
            reach = min(settings.size, 0.9 * (abs(math.sin(turn)) * width + abs(math.cos(turn)) * height)) / 2
            y = rng.uniform(reach, settings.size - reach)
        return place((x, y), (width, height), turn, corner_jitter(rng, settings.perspective))

    def _lit(self, rng: np.random.Generator, patch: Patch) -> Patch:
        """A patch in its own light: brighter or darker, shaded to one side, sometimes with glare."""
        strength = self.settings.light
        height, width = patch.alpha.shape
        ramp = 1 + strength * rng.uniform(-0.35, 0.35) * np.linspace(-1, 1, width, dtype=np.float32)
        patch.colour[...] *= ramp * rng.uniform(1 - 0.35 * strength, 1 + 0.2 * strength)
        if rng.random() < 0.35 * strength:
            patch.colour[...] += patch.alpha * glare(rng, (height, width)) * rng.uniform(60, 220)
        return patch

    def _occlude(
        self, rng: np.random.Generator, patches: list[Patch], visible: list[VisibleObject]
    ) -> tuple[list[Patch], list[VisibleObject]]:
        """Occlude some objects, as long as enough of every object stays visible."""
        occluders: list[Patch] = []
        for item in visible if self.settings.occlusion else ():
            if rng.random() >= self.settings.occlusion:
                continue
            patch = patches[item.number]
            side = max(patch.alpha.shape) * rng.uniform(0.35, 0.8)
            corner = np.array([patch.x, patch.y]) + rng.uniform(0, 1, 2) * patch.alpha.shape[::-1]
            quad = place(tuple(corner), (side, side), rng.uniform(0, math.pi), corner_jitter(rng, 0.1))
            occluder = warp(card_of(make_occluder(rng, 96)), quad, (self.settings.size,) * 2)
            left = cover(visible, patches, occluder, self.settings.min_visibility)
            if left is not None:
                occluders.append(occluder)
                visible = left
        return occluders, visible

    def _render(
        self, rng: np.random.Generator, canvas: Float32Array, objects: list[Patch], occluders: list[Patch]
    ) -> Uint8Array:
        """Render everything from back to front, then add light and noise."""
        settings = self.settings
        away = settings.size * rng.uniform(-0.03, 0.03), settings.size * rng.uniform(0.005, 0.03)
        strength = settings.light * rng.uniform(0.3, 1.0)
        for patch in (*reversed(objects), *occluders):
            cast_shadow(canvas, patch, away, settings.size * 0.015, strength)
            paste(canvas, patch)
        canvas *= light_field(rng, canvas.shape[1:], settings.light)
        canvas *= cast(rng, settings.light)[:, None, None]
        add_noise(canvas, rng, settings.noise * rng.uniform(0.2, 1.0))
        return to_pixels(canvas)


def instance_name(split: str, family: int, variant: int) -> str:
    """The name of an instance, such as ``test-007-b``."""
    letters = ""
    while variant >= 0:
        variant, letter = divmod(variant, 26)
        letters, variant = chr(ord("a") + letter) + letters, variant - 1
    return f"{split}-{family:03d}-{letters}"


def _overlap(quad: Float64Array, boxes: Float64Array) -> float:
    """Largest share of a quadrilateral's bounding box that one of the other boxes covers."""
    if len(boxes) == 0:
        return 0.0
    low, high = np.maximum(quad.min(0), boxes[:, :2]), np.minimum(quad.max(0), boxes[:, 2:])
    return float(np.prod(np.maximum(high - low, 0), axis=1).max() / np.prod(np.ptp(quad, axis=0)))


@functools.lru_cache(maxsize=4096)
def _family(seed: int, split: str, family: int) -> Family:
    return make_family(seed, split, family)


@functools.lru_cache(maxsize=512)
def _card(seed: int, split: str, family: int, variant: int, side: int) -> Card:
    return card_of(draw_product(_family(seed, split, family), variant, side))
