"""How closely a student follows its teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from objemb.describers.base import Describer
from objemb.evaluation.instances import instance_retrieval
from objemb.examples.base import Example, Examples
from objemb.ops.boxes import area
from objemb.training.guidance import visible
from objemb.training.teacher import Teacher

#: Upper limits of the areas of small and medium objects in square pixels (Lin et al., "Microsoft COCO", 2014).
COCO_AREAS = (32.0**2, 96.0**2)
#: Upper limits of the shares of the image that a box covers.
SHARES = (0.01, 0.03, 0.1, 0.3)
#: Photos that are described at once.
BATCH = 8


@dataclass(frozen=True, eq=False)
class Following:
    """What student and teacher say of the same true boxes, row by row.

    Attributes:
        student: float32 unit vectors ``(N, D)``.
        teacher: Likewise.
        areas: float32 ``(N,)``: areas of the boxes in square original pixels.
        shares: float32 ``(N,)``: the same as shares of their photos.
        instances: int64 ``(N,)``: identities, :data:`~objemb.examples.base.NO_INSTANCE` where unknown.
        images: int64 ``(N,)``: numbers of the photos.
    """

    student: Tensor
    teacher: Tensor
    areas: Tensor
    shares: Tensor
    instances: Tensor
    images: Tensor

    @property
    def cosines(self) -> Tensor:
        """float32 ``(N,)``: the cosine of the student's vector to the teacher's of each box."""
        return (self.student * self.teacher).sum(dim=1)

    def cosine_by_size(self) -> dict[str, tuple[float, int]]:
        """Mean cosine and number of boxes: of ``all``, and ``small``, ``medium``, ``large`` as COCO draws the lines."""
        sizes = torch.bucketize(self.areas, torch.tensor(COCO_AREAS))
        rows = {"all": torch.ones_like(sizes, dtype=torch.bool)}
        rows |= {name: sizes == number for number, name in enumerate(("small", "medium", "large"))}
        return self._means(rows)

    def cosine_by_share(self) -> dict[str, tuple[float, int]]:
        """Mean cosine and number of boxes by the share of the photo that a box covers, such as ``3 % to 10 %``."""
        bins = torch.bucketize(self.shares, torch.tensor(SHARES))
        edges = [f"{100 * s:g} %" for s in (0, *SHARES, 1)]
        return self._means({f"{edges[n]} to {edges[n + 1]}": bins == n for n in range(len(SHARES) + 1)})

    def retrieval(self, queries: str = "student", gallery: str = "student") -> dict[str, float]:
        """``mAP``, ``P@1`` and ``queries`` when each box of a known identity is searched for in the other photos.

        Args:
            queries: Whose vectors are searched with, ``student`` or ``teacher``.
            gallery: Whose vectors are searched. Different ones are the mixed mode: a strong teacher that has indexed,
                a fast student that asks, or the reverse.
        """
        asked, searched = getattr(self, queries), getattr(self, gallery)
        return instance_retrieval(searched, self.instances, self.images, asking=asked)

    def _means(self, rows: dict[str, Tensor]) -> dict[str, tuple[float, int]]:
        cosines = self.cosines
        return {name: (float(cosines[of].mean()), int(of.sum())) for name, of in rows.items() if of.any()}


class VisibleBoxes(Examples):
    """Examples without the boxes that show nothing; see :func:`objemb.training.guidance.visible`."""

    def __init__(self, examples: Examples) -> None:
        self.all, self.instances, self.classes = examples, examples.instances, examples.classes

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int) -> Example:
        example = self.all[number]
        return Example(example.photo, visible(example.regions))


@torch.no_grad()
def follow(student: Describer, teacher: Teacher, examples: Examples) -> Following:
    """Both describe the true boxes of all examples, as :class:`VisibleBoxes` has them."""
    shown = VisibleBoxes(examples)
    parts: dict[str, list[Tensor]] = {name: [] for name in Following.__dataclass_fields__}
    for start in range(0, len(shown), BATCH):
        batch = [shown[n] for n in range(start, min(start + BATCH, len(shown)))]
        photos, regions = [e.photo for e in batch], [e.regions for e in batch]
        parts["student"] += [d.vectors for d in student.describe(photos, regions)]
        parts["teacher"] += teacher.vectors(photos, regions)
        for number, example in enumerate(batch, start):
            areas = area(example.regions.boxes)
            parts["areas"].append(areas)
            parts["shares"].append(areas / (example.photo.size[0] * example.photo.size[1]))
            parts["instances"].append(example.instances)
            parts["images"].append(torch.full((len(areas),), number))
    return Following(**{name: torch.cat(rows) for name, rows in parts.items()})


def figures(found: Following) -> dict[str, float]:
    """The figures of a validation: cosines by size, and retrieval by the student where identities are known."""
    means = {name: mean for name, (mean, _) in found.cosine_by_size().items()}
    result = {"cosine": means.pop("all", 0.0), **{f"cosine_{name}": mean for name, mean in means.items()}}
    retrieval = found.retrieval()
    if retrieval["queries"]:
        result |= {"mAP": retrieval["mAP"], "P@1": retrieval["P@1"]}
    return result
