"""Products on photos, scene by scene."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from objemb.coco.files import DISTRACTOR
from objemb.datasets.compose_settings import ComposeSettings
from objemb.datasets.cutouts import read_cutout
from objemb.datasets.ingredients import SourcePicture
from objemb.datasets.render.backdrops import make_piece
from objemb.datasets.render.blending import join, trim
from objemb.datasets.render.framing import MIN_SIDE, frame_alone
from objemb.datasets.render.light import add_noise, cast, light_field
from objemb.datasets.render.pasting import (
    Card,
    Patch,
    card_of,
    cast_shadow,
    corner_jitter,
    place,
    to_pixels,
    to_planes,
    warp,
)
from objemb.datasets.render.stacking import keep_visible, large_behind
from objemb.datasets.scene import Scene, make_scene
from objemb.datasets.seeds import generator, is_alone, round_robin
from objemb.images import read_photo
from objemb.structures import NO_LABEL
from objemb.types import Float32Array, Float64Array, Uint8Array

#: Every fifth held-out scene gives queries, and every fifth picture of a product is shown in those scenes only.
QUERY_EVERY = 5

#: Longest side of a picture that is a query, in pixels: a larger one is scaled down.
PICTURE_SIDE = 1024


class Compositions:
    """Scenes of products on photos: ``compositions[i]`` renders scene ``i``, always with the same bytes.

    Args:
        settings: Settings of the scenes.
        split: Part of the seed, so that the scenes of two splits differ.
        products: Pictures of products with their instances.
        photos: Background photos.
        distractors: Pictures of other things; if there are none, pieces of photos are used.
        query_every: In every ``query_every``-th scene, instances with several pictures are shown by pictures that no
            other scene uses, so that a query never finds its own pixels. None for the same pictures in all scenes.
    """

    def __init__(
        self,
        settings: ComposeSettings,
        split: str,
        products: Sequence[SourcePicture],
        photos: Sequence[SourcePicture],
        distractors: Sequence[SourcePicture] = (),
        *,
        query_every: int | None = None,
    ) -> None:
        if not products or not photos:
            raise ValueError(f"compose: expected pictures and photos, found {len(products)} and {len(photos)}")
        self.settings, self.split = settings, split
        self.photos, self.distractors, self.query_every = tuple(photos), tuple(distractors), query_every
        self.instances = tuple(sorted({p.instance for p in products}))
        self.categories = ("object", DISTRACTOR) if settings.annotate_distractors else ("object",)
        self._views = {n: self._split_views([p for p in products if p.instance == n]) for n in self.instances}
        self._leads = generator("leads", settings.seed, split).permutation(len(self.instances)).tolist()

    def __len__(self) -> int:
        return self.settings.counts[self.split]

    def __getitem__(self, number: int) -> Scene:
        if not 0 <= number < len(self):
            raise IndexError(f"scene: expected a number from 0 to {len(self) - 1}, found {number}")
        rng = generator("composition", self.settings.seed, self.split, number)
        if is_alone(self.settings.alone, self.settings.seed, self.split, number):
            canvas, items, pasted = self._lay_alone(rng, number)
        else:
            canvas = self._photo(rng, self.settings.size)
            items = self._choose(rng, number)
            pasted = [self._lay(rng, item, canvas) for item in items]
        size = (canvas.shape[1], canvas.shape[2])
        order = large_behind([p.patch for p in pasted], size)
        items, pasted = [items[n] for n in order], [pasted[n] for n in order]
        visible = keep_visible([p.patch for p in pasted], size, self.settings.min_visibility)
        pixels = self._render(rng, canvas, [pasted[s.number] for s in visible])
        visible = [s for s in visible if items[s.number].label != NO_LABEL or self.settings.annotate_distractors]
        kept = [items[s.number] for s in visible]
        categories = tuple("object" if item.label != NO_LABEL else DISTRACTOR for item in kept)
        return make_scene(pixels, visible, [item.label for item in kept], tuple(item.name for item in kept), categories)

    def pictures(self, instance: str) -> Iterator[Image.Image]:
        """The first pictures of an instance that query scenes show, as in their files, with transparency as white.

        For an instance with a single picture, it is the one that all scenes show.
        """
        _, views = self._views.get(instance, ((), ()))
        for view in views[: self.settings.picture_queries]:
            picture = _photo(view.path, PICTURE_SIDE)
            picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
            yield picture

    def _split_views(self, pictures: list[SourcePicture]) -> tuple[list[SourcePicture], list[SourcePicture]]:
        """Pictures of an instance for the database and for queries; the same for both if there is only one."""
        if self.query_every is None or len(pictures) < 2:
            return pictures, pictures
        order = generator("views", self.settings.seed, pictures[0].instance).permutation(len(pictures))
        count = max(1, len(pictures) // QUERY_EVERY)
        return [pictures[n] for n in sorted(order[count:])], [pictures[n] for n in sorted(order[:count])]

    def _choose(self, rng: np.random.Generator, number: int) -> list[_Item]:
        """The objects of a scene, in random depth."""
        count = _number(rng, self.settings.objects_per_scene)
        # each instance comes first in equally many scenes, so that none is left out
        labels = [round_robin(self._leads, number), *rng.integers(len(self.instances), size=count).tolist()]
        views = [self._view(rng, label, number) for label in labels[:count]]
        items = [_Item(n, v.instance, self._card(v)) for n, v in zip(labels, views, strict=False)]
        items += [self._distractor(rng) for _ in range(_number(rng, self.settings.distractors_per_scene))]
        return [items[n] for n in rng.permutation(len(items))]

    def _view(self, rng: np.random.Generator, label: int, number: int) -> SourcePicture:
        """A picture of an instance that the scene with this number may show."""
        views = self._views[self.instances[label]][int(self.query_every is not None and number % self.query_every == 0)]
        return views[int(rng.integers(len(views)))]

    def _distractor(self, rng: np.random.Generator) -> _Item:
        if self.distractors:
            picture = self.distractors[int(rng.integers(len(self.distractors)))]
            return _Item(NO_LABEL, f"{DISTRACTOR} {picture.id}", self._card(picture))
        side = max(16, round(self.settings.size * self.settings.object_size[1]))
        piece = make_piece(rng, Image.fromarray(to_pixels(self._photo(rng, side))))
        return _Item(NO_LABEL, f"{DISTRACTOR} {rng.integers(2**48):012x}", card_of(piece))

    def _card(self, picture: SourcePicture, side: int | None = None) -> Card:
        return _card(picture.path, self.settings.cut, side or self.settings.card_side)

    def _photo(self, rng: np.random.Generator, side: int) -> Float32Array:
        """A random square of a random photo, perhaps mirrored, as float32 ``(3, side, side)``."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        image = _photo(photo.path, self.settings.size)
        edge = min(image.size) * rng.uniform(0.6, 1.0)
        x, y = rng.uniform(0, image.width - edge), rng.uniform(0, image.height - edge)
        crop = image.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + edge, y + edge))
        return to_planes(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop)

    def _lay(self, rng: np.random.Generator, item: _Item, canvas: Float32Array) -> _Pasted:
        """Place an object in the scene, with its light."""
        settings, card = self.settings, item.card
        side = settings.size * math.exp(rng.uniform(*np.log(settings.object_size)))
        zoom = min(side / max(card.size), settings.max_zoom)
        width, height = zoom * card.size[0], zoom * card.size[1]
        turn = math.radians(rng.uniform(-settings.rotation, settings.rotation))
        reach_x = 0.45 * (abs(math.cos(turn)) * width + abs(math.sin(turn)) * height)
        reach_y = 0.45 * (abs(math.sin(turn)) * width + abs(math.cos(turn)) * height)
        reach_x, reach_y = (min(reach, settings.size / 2) for reach in (reach_x, reach_y))  # larger ones: the middle
        centre = rng.uniform(reach_x, settings.size - reach_x), rng.uniform(reach_y, settings.size - reach_y)
        quad = place(centre, (width, height), turn, corner_jitter(rng, settings.perspective))
        return self._paste(rng, card, quad, canvas, zoom)

    def _lay_alone(self, rng: np.random.Generator, number: int) -> tuple[Float32Array, list[_Item], list[_Pasted]]:
        """A scene with the picture of a single product: its ground, and the placed picture."""
        label = round_robin(self._leads, number)
        view = self._view(rng, label, number)
        card = self._card(view, max(self.settings.size, self.settings.card_side))
        side = max(MIN_SIDE, round(min(self.settings.size, self.settings.max_zoom * max(card.size))))
        canvas, quad = frame_alone(rng, card, side)
        pasted = self._paste(rng, card, quad, canvas, side / max(card.size))
        return canvas, [_Item(label, view.instance, card)], [pasted]

    def _paste(
        self, rng: np.random.Generator, card: Card, quad: Float64Array, canvas: Float32Array, zoom: float
    ) -> _Pasted:
        """An object warped to a quadrilateral, with the light of its place."""
        settings = self.settings
        patch = warp(card, quad, (canvas.shape[1], canvas.shape[2]))
        blend = settings.blends[int(rng.integers(len(settings.blends)))]
        seam = max(0.6, zoom * max(card.size) * rng.uniform(0.008, 0.02))
        _recolour(rng, patch, canvas, settings.colour)
        return _Pasted(trim(patch, blend, seam), blend, seam)

    def _render(self, rng: np.random.Generator, canvas: Float32Array, objects: list[_Pasted]) -> Uint8Array:
        """Objects from the back to the front, then light and noise over everything."""
        settings = self.settings
        away = tuple(settings.size * rng.uniform((-0.03, 0.0), (0.03, 0.03)))
        for item in reversed(objects):
            if rng.random() < settings.shadows:
                cast_shadow(canvas, item.patch, (away[0], away[1]), settings.size * 0.015, rng.uniform(0.2, 0.6))
            join(canvas, item.patch, item.blend, item.seam)
        canvas *= light_field(rng, (canvas.shape[1], canvas.shape[2]), settings.light)
        canvas *= cast(rng, settings.light)[:, None, None]
        add_noise(canvas, rng, settings.noise * rng.uniform(0, 1))
        return to_pixels(canvas)


@dataclass(frozen=True, eq=False)
class _Item:
    """An object before it is placed."""

    label: int
    name: str
    card: Card


@dataclass(frozen=True, eq=False)
class _Pasted:
    """A placed object, with the blending of its edge."""

    patch: Patch
    blend: str
    seam: float


def _number(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _recolour(rng: np.random.Generator, patch: Patch, canvas: Float32Array, strength: float) -> None:
    """Other brightness, contrast and cast, and a step towards the brightness of the place."""
    weight = float(patch.alpha.sum())
    if weight == 0:
        return
    own = float(patch.colour.mean(0).sum()) / weight
    place = float((canvas[:, *patch.window].mean(0) * patch.alpha).sum()) / weight
    adapted = (max(place, 16.0) / max(own, 16.0)) ** (0.4 * strength)
    gain = adapted * (1 + strength * rng.uniform(-0.35, 0.25)) * cast(rng, 0.6 * strength)[:, None, None]
    contrast = 1 + strength * rng.uniform(-0.4, 0.3)
    patch.colour[...] = ((patch.colour - own * patch.alpha) * contrast + own * patch.alpha) * gain
    np.clip(patch.colour, 0, 255 * patch.alpha, out=patch.colour)


@functools.lru_cache(maxsize=128)  # of at most 2.2 MB each where objects fill a scene of 512 pixels
def _card(path: str, cut: str, side: int) -> Card:
    return card_of(read_cutout(path, cut=cut, side=side))


def _photo(path: str, side: int) -> Image.Image:
    return Image.fromarray(read_photo(path, side=side).interleaved())
