"""Validation figures: a student against its teacher box by box, and a detector against ground-truth boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from objemb.describers.base import Describer
from objemb.detectors.capabilities import NetworkDetector
from objemb.evaluation.average_precision import coco_average_precision
from objemb.evaluation.instances import instance_retrieval, instance_retrieval_by_class
from objemb.evaluation.sizes import SIZE_KEYS, SIZES, WHOLE_PHOTO, side_shares, size_classes
from objemb.ops.batches import batched
from objemb.ops.tensors import as_tensor
from objemb.structures import Regions
from objemb.training.data.base import Example, Examples
from objemb.training.region_sampling import bare, visible_boxes
from objemb.training.teacher import Teacher

#: Number of photos per batch.
BATCH = 8


@dataclass(frozen=True, eq=False)
class Comparison:
    """Vectors of student and teacher for the same ground-truth boxes, row by row, and cosines for the whole photos.

    Attributes:
        student: The student's unit vectors, float32 ``(N, D)``.
        teacher: The teacher's unit vectors, float32 ``(N, D)``.
        whole_photos: float32 ``(P,)``: cosine of the student's and the teacher's vector of each whole photo.
        sizes: int64 ``(N,)``: size class of each box, see :mod:`objemb.evaluation.sizes`.
        instances: int64 ``(N,)``: identity of each box, :data:`~objemb.training.data.base.NO_INSTANCE` if unknown.
        images: int64 ``(N,)``: number of the photo of each box.
    """

    student: Tensor
    teacher: Tensor
    whole_photos: Tensor
    sizes: Tensor
    instances: Tensor
    images: Tensor

    @property
    def cosines(self) -> Tensor:
        """float32 ``(N,)``: cosine of the student's and the teacher's vector of each box."""
        return (self.student * self.teacher).sum(dim=1)

    def cosine_by_size(self) -> dict[str, tuple[float, int]]:
        """Mean cosine and number of boxes for ``all``, for each size class that occurs, and for the ``whole photo``."""
        groups = {"all": self.cosines, **{size: self.cosines[self.sizes == n] for n, size in enumerate(SIZES)}}
        groups[WHOLE_PHOTO] = self.whole_photos
        return {name: (float(cosines.mean()), len(cosines)) for name, cosines in groups.items() if len(cosines)}

    def retrieval(self, queries: str = "student", gallery: str = "student") -> dict[str, float]:
        """``mAP``, ``P@1`` and the number of ``queries``: each box of known identity is a query for the other photos.

        Args:
            queries: Model that embeds the queries, ``student`` or ``teacher``.
            gallery: Model that embeds the gallery, ``student`` or ``teacher``. Two different models give the mixed
                mode, such as a gallery of the strong teacher searched with queries of the fast student.
        """
        asked, searched = getattr(self, queries), getattr(self, gallery)
        return instance_retrieval(searched, self.instances, self.images, asking=asked)

    def retrieval_by_size(self, queries: str = "student", gallery: str = "student") -> dict[str, dict[str, Any]]:
        """:meth:`retrieval` ``by_query_size`` (size of the query) and ``by_object_size`` (size of the objects to find).

        Returns:
            The figures of :meth:`retrieval` by size; sizes without a query are left out.
        """
        asked, searched = getattr(self, queries), getattr(self, gallery)
        by_class = instance_retrieval_by_class(
            searched, self.instances, self.images, self.sizes, len(SIZES), asking=asked
        )
        parts = {"by_query_size": by_class.queries, "by_object_size": by_class.objects}
        return {
            part: {size: of for size, of in zip(SIZES, figures, strict=True) if of["queries"]}
            for part, figures in parts.items()
        }

    def figures(self) -> dict[str, float]:
        """The figures of a validation: cosines by size, and the student's retrieval if identities are known.

        Cosines indicate earlier than retrieval whether training works, and for which sizes.
        """
        keys = {**SIZE_KEYS, WHOLE_PHOTO: "whole_photo"}
        means = {name: mean for name, (mean, _) in self.cosine_by_size().items()}
        result = {"cosine": means.pop("all", 0.0), **{f"cosine_{keys[name]}": mean for name, mean in means.items()}}
        retrieval = self.retrieval()
        if retrieval["queries"]:
            result |= {"mAP": retrieval["mAP"], "P@1": retrieval["P@1"]}
        return result


class VisibleBoxes(Examples):
    """Examples without tiny boxes; see :func:`objemb.training.region_sampling.visible_boxes`."""

    def __init__(self, examples: Examples) -> None:
        self.all, self.instances, self.classes = examples, examples.instances, examples.classes

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int) -> Example:
        example = self.all[number]
        return Example(example.photo, visible_boxes(example.regions))


@torch.no_grad()
def compare(student: Describer, teacher: Teacher, examples: Examples) -> Comparison:
    """Compare student and teacher on whole photos and on ground-truth boxes with sides of at least a pixel.

    Args:
        student: The student, with vectors of length D.
        teacher: The teacher, with vectors of the same length.
        examples: Photos with ground-truth boxes, xyxy in original pixels.
    """
    shown = VisibleBoxes(examples)
    parts: dict[str, list[Tensor]] = {name: [] for name in Comparison.__dataclass_fields__}
    for numbers in batched(range(len(shown)), BATCH):
        batch = [shown[n] for n in numbers]
        photos = [e.photo for e in batch]
        regions = [Regions.cat([Regions.whole(p.size), bare(e.regions)]) for p, e in zip(photos, batch, strict=True)]
        described = [as_tensor(d.vectors) for d in student.describe(photos, regions)]
        sides = zip(batch, described, teacher.vectors(photos, regions), strict=True)
        for number, (example, of_student, of_teacher) in enumerate(sides, numbers[0]):
            parts["whole_photos"].append((of_student[:1] * of_teacher[:1]).sum(dim=1))
            parts["student"].append(of_student[1:])
            parts["teacher"].append(of_teacher[1:])
            boxes = example.regions.boxes
            parts["sizes"].append(torch.from_numpy(size_classes(side_shares(boxes, example.photo.size))))
            parts["instances"].append(example.instances)
            parts["images"].append(torch.full((len(boxes),), number))
    return Comparison(**{name: torch.cat(rows) for name, rows in parts.items()})


def counts_classes(detector: NetworkDetector, examples: Examples) -> bool:
    """Whether detections are matched by class: the detector has the classes of the examples, and more than one."""
    return detector.num_classes > 1 and tuple(detector.classes) == tuple(examples.classes)


@torch.no_grad()
def detection_metrics(detector: NetworkDetector, examples: Examples) -> dict[str, float]:
    """:func:`~objemb.evaluation.average_precision.coco_average_precision` of a detector's boxes.

    Args:
        detector: The detector.
        examples: Photos with ground-truth boxes; if they have no classes, no figures are computed.

    Returns:
        AP by name, from 0 to 1. Detections are matched by class if :func:`counts_classes`.
    """
    if not examples.classes:
        return {}
    detections, truth = [], []
    for number in range(len(examples)):
        example = examples[number]
        detections += detector.detect([example.photo])
        truth.append(example.regions)
    return coco_average_precision(detections, truth, class_agnostic=not counts_classes(detector, examples))
