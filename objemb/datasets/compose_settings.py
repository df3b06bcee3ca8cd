"""How products are pasted onto photos."""

from __future__ import annotations

import math
from dataclasses import dataclass

from objemb import checks
from objemb.datasets.cutouts import CUTS
from objemb.datasets.render.blending import BLENDS


@dataclass(frozen=True)
class ComposeSettings:
    """How products are pasted onto photos.

    Attributes:
        seed: Seed of all random numbers.
        size: Side of a scene in pixels.
        count: Number of training scenes.
        val_count: Number of scenes of the held-out products, by default a fifth of ``count``.
        val_share: Share of the products, and of the photos, that is held out.
        held_out: Patterns of instance names to hold out, instead of a share.
        cut: How pictures without alpha are cut out: auto, plain or none, see ``read_cutout``.
        objects_per_scene: Minimum and maximum number of products in a scene.
        picture_queries: Maximum number of pictures of a held-out product that are queries.
        distractors_per_scene: Minimum and maximum number of other things, or of pieces of photos if none are given.
        annotate_distractors: Whether distractors are annotated, in a separate category.
        object_size: Minimum and maximum longer side of an object as a share of the scene's side.
        alone: Share of scenes that show the picture of a single product, with its aspect ratio.
        max_zoom: Maximum factor by which pictures are enlarged.
        rotation: Maximum rotation in degrees.
        perspective: Maximum shift of a corner as a share of the object's sides.
        min_visibility: Minimum visible share of an object.
        blends: Kinds of seams, one of which is chosen for each object.
        shadows: Probability that an object casts a shadow.
        light: Strength of light and shade, 0 to 1.
        colour: Strength of colour changes of an object, 0 to 1.
        noise: Maximum standard deviation of sensor noise, in grey levels.
    """

    seed: int = 0
    size: int = 512
    count: int = 1000
    val_count: int | None = None
    val_share: float = 0.25
    held_out: tuple[str, ...] = ()
    cut: str = "auto"
    objects_per_scene: tuple[int, int] = (1, 6)
    picture_queries: int = 2
    distractors_per_scene: tuple[int, int] = (0, 2)
    annotate_distractors: bool = False
    object_size: tuple[float, float] = (0.04, 1.0)
    alone: float = 0.15
    max_zoom: float = 5.0
    rotation: float = 25.0
    perspective: float = 0.07
    min_visibility: float = 0.5
    blends: tuple[str, ...] = BLENDS
    shadows: float = 0.4
    light: float = 0.4
    colour: float = 0.4
    noise: float = 4.0

    def __post_init__(self) -> None:
        checks.whole("size", self.size, 32)
        checks.whole("count", self.count, 0)
        checks.whole("picture_queries", self.picture_queries, 0)
        if self.val_count is not None:
            checks.whole("val_count", self.val_count, 0)
        for name in ("val_share", "alone", "shadows", "light", "colour"):
            checks.between(name, getattr(self, name), 0, 1)
        checks.one_of("cut", self.cut, CUTS)
        checks.positive("max_zoom", self.max_zoom)
        checks.between("rotation", self.rotation, 0, 180)
        checks.between("perspective", self.perspective, 0, 0.2)
        checks.between("min_visibility", self.min_visibility, 0.05, 0.9)
        checks.between("noise", self.noise, 0, 64)
        for name in ("objects_per_scene", "distractors_per_scene"):
            object.__setattr__(self, name, checks.whole_interval(name, getattr(self, name)))
        object.__setattr__(self, "object_size", checks.interval("object_size", self.object_size, 0.02, 1))
        object.__setattr__(self, "held_out", tuple(self.held_out))
        object.__setattr__(self, "blends", tuple(checks.one_of("blends", b, BLENDS) for b in self.blends))
        if not self.blends:
            raise ValueError(f"blends: expected some of {checks.listed(BLENDS)}, found none")

    @property
    def card_side(self) -> int:
        """The largest useful longer side of a product's picture, in pixels."""
        return max(64, math.ceil(1.25 * self.object_size[1] * self.size))

    @property
    def counts(self) -> dict[str, int]:
        """Number of scenes of each split."""
        fifth = -(-self.count // 5)
        return {"train": self.count, "val": fifth if self.val_count is None else self.val_count}
