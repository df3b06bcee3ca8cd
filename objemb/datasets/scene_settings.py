"""Settings of generated scenes."""

from __future__ import annotations

from dataclasses import dataclass

from objemb import checks

SPLITS = ("train", "val", "test")
CATEGORIES = ("object", "silhouette")


@dataclass(frozen=True)
class SceneSettings:
    """Settings of generated scenes.

    Attributes:
        seed: Seed of all random numbers.
        size: Side of a scene in pixels.
        train_families, val_families, test_families: Families per split; no split shares one with another.
        variants: Products of a family.
        train_scenes, val_scenes, test_scenes: Scenes per split.
        objects_per_scene: Minimum and maximum number of objects in a scene.
        object_size: Minimum and maximum longer side of an object as a share of the scene's side.
        alone: Share of scenes that show the picture of a single product, with its aspect ratio.
        rotation: Maximum rotation of lying objects in degrees; standing ones rotate by a tenth of it.
        perspective: Maximum shift of a corner as a share of the object's sides.
        siblings: Probability that an object is of the same family as the one before it.
        occlusion: Probability that an object is partly occluded.
        min_visibility: Minimum visible share of an object.
        clutter: Amount of clutter, 0 to 1.
        light: Strength of gradients, shades, colour casts, shadows and glare, 0 to 1.
        noise: Maximum standard deviation of sensor noise, in grey levels.
        category: ``object`` (one category) or ``silhouette`` (eight).
    """

    seed: int = 0
    size: int = 256
    train_families: int = 40
    val_families: int = 8
    test_families: int = 16
    variants: int = 3
    train_scenes: int = 2400
    val_scenes: int = 240
    test_scenes: int = 720
    objects_per_scene: tuple[int, int] = (1, 5)
    object_size: tuple[float, float] = (0.205, 0.508)
    alone: float = 0.0
    rotation: float = 40.0
    perspective: float = 0.09
    siblings: float = 0.3
    occlusion: float = 0.2
    min_visibility: float = 0.5
    clutter: float = 1.0
    light: float = 0.6
    noise: float = 7.0
    category: str = "object"

    def __post_init__(self) -> None:
        for split in SPLITS:
            checks.whole(f"{split}_families", self.families(split))
            checks.whole(f"{split}_scenes", self.scenes(split), 0)
        checks.whole("size", self.size, 32)
        checks.whole("variants", self.variants)
        for name in ("alone", "siblings", "occlusion", "clutter", "light"):
            checks.between(name, getattr(self, name), 0, 1)
        checks.between("rotation", self.rotation, 0, 180)
        checks.between("perspective", self.perspective, 0, 0.2)
        checks.between("min_visibility", self.min_visibility, 0.05, 0.9)
        checks.between("noise", self.noise, 0, 64)
        checks.one_of("category", self.category, CATEGORIES)
        object.__setattr__(
            self, "objects_per_scene", checks.whole_interval("objects_per_scene", self.objects_per_scene)
        )
        object.__setattr__(self, "object_size", checks.interval("object_size", self.object_size, 0.02, 1))

    def families(self, split: str) -> int:
        """Number of families of a split."""
        return int(getattr(self, f"{split}_families"))

    def scenes(self, split: str) -> int:
        """Number of scenes of a split."""
        return int(getattr(self, f"{split}_scenes"))
