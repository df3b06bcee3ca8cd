"""A teacher for Detectron2's own training: a data mapper that adds the vectors of the boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.boxes import clip
from objemb.ops.tensors import as_tensor
from objemb.structures import Photo, RegionDescriptors, Regions

FORMATS = ("BGR", "RGB")


class BoxDescriber(Protocol):
    """Anything that describes boxes, such as ``load_model(folder).describer``."""

    def describe(self, photos: list[Photo], regions: list[Regions]) -> list[RegionDescriptors]:
        """For each photo, its regions with their vectors ``(N, D)``."""


class TeacherMapper:
    """A data mapper of Detectron2 that also describes each augmented picture with the teacher.

    ::

        mapper = TeacherMapper(DatasetMapper(cfg, is_train=True), load_model("teacher").describer, cfg.INPUT.FORMAT)
        loader = build_detection_train_loader(cfg, mapper=mapper)

    It adds the fields ``gt_embeddings`` and ``gt_image_embeddings`` to the instances, float32 ``(N, D)`` each, the
    targets of the ROI heads with embeddings. The teacher runs in the same process as the mapper: in the workers of the
    loader, hence on the CPU, unless ``DATALOADER.NUM_WORKERS`` is 0.

    Args:
        mapper: Gives dicts with ``image``, uint8 ``(3, h, w)``, and ``instances`` with ``gt_boxes``; None is passed on.
        teacher: Describes boxes.
        image_format: Order of the channels, ``"BGR"`` or ``"RGB"``.
    """

    def __init__(self, mapper: Callable[[object], Any], teacher: BoxDescriber, image_format: str = "BGR") -> None:
        self.mapper, self.teacher = mapper, teacher
        self.image_format = checks.one_of("image_format", image_format, FORMATS)

    def __call__(self, dataset_dict: object) -> object:
        """The output of the mapper, with the teacher's vectors."""
        mapped = self.mapper(dataset_dict)
        if mapped is not None and "instances" in mapped:
            instances = mapped["instances"]
            boxes = instances.gt_boxes.tensor
            if boxes.shape[1] != 4:
                raise ValueError(
                    f"gt_boxes: expected upright boxes (x1, y1, x2, y2), found {boxes.shape[1]} numbers a box, as of "
                    "rotated ones; a teacher describes upright boxes, so let the mapper give those around the objects"
                )
            vectors = self._vectors(mapped["image"], boxes)
            instances.gt_embeddings = vectors[1:]
            instances.gt_image_embeddings = vectors[:1].expand(len(instances), -1)
        return mapped

    @torch.no_grad()
    def _vectors(self, image: Tensor, boxes: Tensor) -> Tensor:
        """``(1 + N, D)``: of the whole image, then of the boxes."""
        size = (image.shape[1], image.shape[2])
        regions = Regions.cat([Regions.whole(size), Regions(clip(boxes.float(), size), size)])
        pixels = image.flip(0) if self.image_format == "BGR" else image
        (described,) = self.teacher.describe([Photo("image", pixels.contiguous().cpu().numpy(), size)], [regions])
        return as_tensor(described.vectors)
