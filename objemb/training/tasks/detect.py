"""A detector, trained on ground-truth boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from objemb import checks
from objemb.aggregators.keep import Keep
from objemb.describers.base import Describer
from objemb.detectors.capabilities import NetworkDetector
from objemb.evaluation.average_precision import coco_average_precision
from objemb.evaluation.region_recall import region_recall
from objemb.models.model import Model
from objemb.models.state import without_weights
from objemb.ops.batches import batched
from objemb.registry import plugin
from objemb.structures import Regions
from objemb.training.augment import jitter_photo, mirrored
from objemb.training.data.base import Example, Examples, expect_boxes
from objemb.training.optimizer import (
    ParameterGroup,
    groups_by_factor,
    parameters_below,
    parameters_beside_proposals,
)
from objemb.training.pictures import boxes_sheet
from objemb.training.task import Task

#: Photos per batch in validation.
BATCH = 8
#: Photos of the validation set that are drawn, and the most proposals in each.
DRAWN, DRAWN_PROPOSALS = 4, 8
#: Numbers of proposals whose recall is measured, and the IoU from which one covers an object.
RECALL_AT, RECALL_IOU = (16, 64), 0.7


@plugin
class Detect(Task):
    """Trains the detector of a describer on ground-truth boxes, starting from its weights.

    ::

        photos of a batch ── mirror, colours ── preprocess ── features ── losses of the detector's heads

    Photos of different sizes share a batch, padded to the largest. Normalisation layers keep their statistics. A
    detector with one class is class-agnostic: labels are ignored in training and in its figures. The other parts of the
    describer are not changed.

    The mask head of a Mask R-CNN is trained if the data have masks. If they have none, freeze it with a factor of 0 for
    ``*.roi_heads.mask_*``; runs with several processes require this.

    Args:
        describer: A ``one_pass``, or a ``pooled_regions`` whose regions are the ``detections`` of a network.
        data: Photos with ground-truth boxes; photos without boxes are background.
        validation: Photos with ground-truth boxes for the figures; None for no validation.
        factors: Patterns of the detector's parameter names, each with a factor on the learning rate; 0 freezes the
            parameters, and the last matching pattern applies. ``{"*.backbone.body.*": 0.1}`` slows down the trunk,
            ``{"*.layer1.*": 0}`` freezes its first stage.
        frozen: Name of a level of the detector; all layers that it depends on are frozen. Needed for ``trunk8`` if the
            ``tail`` of a classification network is applied to that level afterwards.
        flip: Whether photos are mirrored at random.
        colour_jitter: Strength, see :func:`objemb.training.augment.jitter_colours`.
        only_proposals: Whether only the region proposal network is trained, as in Gordo et al., "Deep image retrieval",
            ECCV 2016: the losses are those of the proposals, the figures are their recall, and the heads that classify
            and refine boxes stay as they are.

    Raises:
        TypeError: The describer has no detector that is a network.
        ValueError: The classes of data and detector differ, the data have no box, a pattern matches no parameter, the
            detector has no such level, or a value is out of range.
    """

    def __init__(
        self,
        *,
        describer: Describer,
        data: Examples,
        validation: Examples | None = None,
        factors: Mapping[str, float] = MappingProxyType({}),
        frozen: str | None = None,
        flip: bool = True,
        colour_jitter: float = 0.2,
        only_proposals: bool = False,
    ) -> None:
        super().__init__()
        detector = describer.detector
        if not isinstance(detector, NetworkDetector):
            found = type(describer if detector is None else detector).__name__
            raise TypeError(f"describer: expected one with a detector that is a network, found {found}")
        for name, source in (("data", data), ("validation", validation)):
            if source is not None:
                _expect_classes(name, source, detector)
                expect_boxes(name, source)
        self.describer, self.detector = describer, detector
        self.examples, self.validation = data, validation
        self.flip = checks.flag("flip", flip)
        self.colour_jitter = checks.between("colour_jitter", colour_jitter, 0, 1)
        self.only_proposals = checks.flag("only_proposals", only_proposals)
        self.describer.requires_grad_(False)
        below = set[str]() if frozen is None else parameters_below(detector, frozen)
        if self.only_proposals:
            below |= parameters_beside_proposals(detector)
        self._groups = groups_by_factor(detector, factors, below)
        for group in self._groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        self._drawn: list[tuple[Example, Regions]] = []

    @staticmethod
    def learned(settings: Mapping[str, object]) -> tuple[str, ...]:
        """See :meth:`Task.learned`."""
        del settings
        return ("describer.detector", "describer.regions.detector", "describer.backbone.detector")

    def check(self) -> None:
        """Raises ``ImportError`` if a package that validation needs is missing."""
        if self.validation is not None and not self.only_proposals:
            coco_average_precision([], [])

    def parameter_groups(self) -> list[ParameterGroup]:
        """The detector's parameters by their factor on the learning rate."""
        return self._groups

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """The float scalars of :meth:`~objemb.detectors.capabilities.NetworkDetector.losses`, by the detector's names.

        Boxes are xyxy in original pixels; photos without boxes are background.
        """
        examples = [jitter_photo(self._mirrored(e), self.colour_jitter) for e in batch]
        photos = [e.photo for e in examples]
        seen = self.detector.preprocess(photos)
        features, truth = self.detector.features(seen), [e.regions for e in examples]
        if self.only_proposals:
            return self.detector.proposal_losses(seen, features, truth)
        return self.detector.losses(seen, features, truth, photos)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The figures of :func:`~objemb.evaluation.average_precision.coco_average_precision` on the validation set, or
        ``recall@16`` and ``recall@64`` of proposals at an IoU of 0.7, 0 to 1."""
        if self.validation is None:
            return {}
        detections: list[Regions] = []
        truth: list[Regions] = []
        self._drawn = []
        for numbers in batched(range(len(self.validation)), BATCH):
            examples = [self.validation[n] for n in numbers]
            photos = [e.photo for e in examples]
            detected = self.detector.propose(photos) if self.only_proposals else self.detector.detect(photos)
            shown = [of_photo[:DRAWN_PROPOSALS] for of_photo in detected] if self.only_proposals else detected
            self._drawn += list(zip(examples, shown, strict=True))[: DRAWN - len(self._drawn)]
            detections += detected
            truth += [e.regions for e in examples]
        if self.only_proposals:
            (recall,) = region_recall(detections, truth, RECALL_AT, [RECALL_IOU]).values()
            return {f"recall@{count}": value for count, value in zip(RECALL_AT, recall, strict=True)}
        return coco_average_precision(detections, truth, class_agnostic=self.detector.num_classes == 1)

    def pictures(self) -> dict[str, Tensor]:
        """``boxes``: the first photos of the validation set with detections and ground truth."""
        return {"boxes": boxes_sheet(self._drawn)} if self._drawn else {}

    def model(self) -> Model:
        """The describer with the trained detector."""
        settings = {"describer": without_weights(self.settings["describer"]), "aggregator": {"name": "keep"}}
        return Model(self.describer, Keep(), settings, {}, str(self.device))

    def _mirrored(self, example: Example) -> Example:
        return mirrored(example) if self.flip and bool(torch.rand(()) < 0.5) else example


def _expect_classes(name: str, source: Examples, detector: NetworkDetector) -> None:
    """Raise ``ValueError`` unless label numbers mean the same classes in data and detector."""
    count = detector.num_classes
    if count == 1:
        return
    if len(source.classes) != count:
        raise ValueError(
            f"{name}: expected the {count} classes of the detector, found {len(source.classes)}; "
            f"set its num_classes={len(source.classes)}, or 1 for a class-agnostic detector"
        )
    if detector.classes and tuple(source.classes) != tuple(detector.classes):
        wrong = next(i for i in range(count) if source.classes[i] != detector.classes[i])
        raise ValueError(
            f"{name}: expected the classes of the detector, "
            f"with {detector.classes[wrong]!r} as number {wrong}, found {source.classes[wrong]!r}"
        )
