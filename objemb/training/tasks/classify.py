"""An embedding network, trained by classifying identities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.aggregators.keep import Keep
from objemb.describers.base import Describer
from objemb.describers.capabilities import CropEmbedder
from objemb.evaluation.instances import instance_retrieval
from objemb.losses.classification import cosine_softmax_loss, start_prototypes
from objemb.models.fitting import whiten as whitened
from objemb.models.model import Model
from objemb.models.state import without_weights
from objemb.ops.batches import batched, group_equal
from objemb.ops.tensors import as_tensor
from objemb.registry import plugin
from objemb.training.augment import flip_some, jitter_boxes, jitter_colours
from objemb.training.data.base import NO_INSTANCE, Example, Examples
from objemb.training.pictures import neighbours
from objemb.training.task import Task, expect_identities

#: Photos per batch when describing.
BATCH = 16


@dataclass(frozen=True)
class WhitenSettings:
    """Settings of the whitening that is fitted after the last step.

    Attributes:
        dim: Dimensions to keep, None for all.
        power: Shrinkage, see :class:`objemb.layers.whitening.Whitening`.
        boxes: Number of training boxes to fit it on.
    """

    dim: int | None = None
    power: float = 0.5
    boxes: int = 2000

    def __post_init__(self) -> None:
        checks.between("power", self.power, 0, 1)
        checks.whole("boxes", self.boxes, 2)
        if self.dim is not None:
            checks.whole("dim", self.dim)


@plugin
class Classify(Task):
    """Trains the backbone of a crop describer to classify the identities of labelled boxes.

    ::

        boxes of a batch ── jitter ── crops ── colours ── backbone (train mode) ── pooling ── cosine softmax

    The loss is computed on the describer's own vectors, so only the class prototypes are discarded after training. The
    trained model uses the network as it is or, with ``whiten``, followed by a whitening fitted on training boxes.

    Args:
        describer: A ``pooled_regions`` with the extractor ``crop``, whose ``size`` is the side of the crops; its
            ``batch`` is not used. Its backbone is trained, including batch norms.
        data: Labelled boxes to train on; boxes without an identity are not used.
        validation: Labelled boxes of *other* identities; each is a query for the others, which gives ``mAP`` and
            ``P@1``. None for no validation.
        crops: Maximum number of crops per step and process, drawn at random from all boxes of its examples.
        scale: Scale of the cosine softmax, see :func:`objemb.losses.classification.cosine_softmax_loss`.
        margin: Margin of the cosine softmax: 0 for NormFace, above 0 for CosFace.
        box_jitter: Strength, see :func:`objemb.training.augment.jitter_boxes`.
        colour_jitter: Strength, see :func:`objemb.training.augment.jitter_colours`.
        flip: Whether crops are mirrored at random; unsuitable if objects differ by their lettering.
        whiten: ``{dim: 128, power: 0.5, boxes: 2000}``: a PCA whitening fitted on training boxes after the last step;
            None for no whitening.

    Raises:
        TypeError: The describer is of another kind.
        ValueError: The data have no identities, or a value is out of range.
    """

    after = ("whiten",)

    def __init__(
        self,
        *,
        describer: Describer,
        data: Examples,
        validation: Examples | None = None,
        crops: int = 64,
        scale: float = 16.0,
        margin: float = 0.0,
        box_jitter: float = 0.05,
        colour_jitter: float = 0.2,
        flip: bool = False,
        whiten: WhitenSettings | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(describer, CropEmbedder) or not describer.extractor.cuts_out:
            kind = type(describer.extractor or describer).__name__
            raise TypeError(f"describer: expected pooled_regions with the extractor crop, found {kind}")
        if len(data.instances) < 2:
            raise ValueError(f"data: expected boxes of at least 2 instances, found {len(data.instances)}")
        self.describer = describer
        self.examples, self.validation = data, validation
        self.crops = checks.whole("crops", crops)
        self.scale, self.margin = checks.positive("scale", scale), checks.between("margin", margin, 0, 1)
        self.box_jitter = checks.between("box_jitter", box_jitter, 0, 1)
        self.colour_jitter = checks.between("colour_jitter", colour_jitter, 0, 1)
        self.flip = checks.flag("flip", flip)
        self.whiten = whiten
        self.describer.requires_grad_(False)
        self.describer.backbone.requires_grad_(True)
        self.prototypes = nn.Parameter(start_prototypes(len(data.instances), describer.dim))
        self._described: tuple[Tensor, Tensor, Tensor] | None = None

    @staticmethod
    def learned(settings: Mapping[str, object]) -> tuple[str, ...]:
        """See :meth:`Task.learned`."""
        del settings
        return ("describer.backbone",)

    def check(self) -> None:
        """Raises ``ValueError`` unless there are boxes to train on, and enough of them for the whitening.

        The rank of their vectors is known only after the last step; here only its upper bound is checked.
        """
        expect_identities(self.examples)
        if self.whiten is None:
            return
        dim = self.whiten.dim or 1
        boxes = 0
        for number in range(len(self.examples)):  # the first ones are described, as many as are needed
            boxes += len(self.examples.identities(number))
            if boxes > dim or boxes >= self.whiten.boxes:
                break
        most = min(self.describer.dim, boxes - 1)
        if dim > most:
            raise ValueError(
                f"whiten: dim: expected at most {most}, as {boxes} boxes give vectors of length {self.describer.dim}, "
                f"found {self.whiten.dim}"
            )

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """``identity``, a float32 scalar: cosine softmax loss of the crops of labelled boxes; 0 without any.

        Boxes are xyxy in original pixels; those without an identity are ignored.
        """
        crops, labels = self._crops(batch)
        with train_mode(self.describer.backbone):
            vectors = self._vectors(crops)
        loss = cosine_softmax_loss(
            vectors, self.prototypes, labels.to(self.device), scale=self.scale, margin=self.margin
        )
        return {"identity": loss}

    def validate(self) -> dict[str, float]:
        """``mAP`` and ``P@1`` with every box of the validation set as a query."""
        if self.validation is None:
            return {}
        self._described = self._describe(self.validation, len(self.validation))
        figures = instance_retrieval(*self._described)
        return {"mAP": figures["mAP"], "P@1": figures["P@1"]}

    def pictures(self) -> dict[str, Tensor]:
        """``neighbours``: some boxes of the validation set and their nearest neighbours."""
        if self.validation is None or self._described is None:
            return {}
        return {"neighbours": neighbours(self.validation, *self._described)}

    def model(self) -> Model:
        """The describer with its whitening; it describes the whole image and given boxes."""
        settings = {"describer": without_weights(self.settings["describer"]), "aggregator": {"name": "keep"}}
        model = Model(self.describer, Keep(), settings, {}, str(self.device))
        if self.whiten is None:
            return model
        vectors, _, images = self._describe(self.examples, self.whiten.boxes)
        about = f"{len(vectors)} boxes of {len(images.unique())} training examples"
        return whitened(model, vectors, dim=self.whiten.dim, power=self.whiten.power, fitted_on=about)

    def _crops(self, batch: Sequence[Example]) -> tuple[list[Tensor], Tensor]:
        """Network inputs, uint8 ``(3, h, w)`` each, and their instances, int64 ``(N,)``."""
        rows = [(e.instances != NO_INSTANCE).nonzero().flatten() for e in batch]
        pool = torch.stack([torch.repeat_interleave(torch.tensor([len(r) for r in rows])), torch.cat(rows)], dim=1)
        drawn = pool[torch.randperm(len(pool))[: self.crops].sort().values]
        extractor, backbone = self.describer.extractor, self.describer.backbone
        crops: list[Tensor] = []
        labels = [torch.zeros(0, dtype=torch.int64)]
        for i, example in enumerate(batch):
            of_photo = drawn[drawn[:, 0] == i, 1]
            boxes = jitter_boxes(example.regions[of_photo], self.box_jitter)
            crops += extractor.cut(example.photo, boxes, backbone)
            labels.append(example.instances[of_photo])
        return crops, torch.cat(labels)

    def _vectors(self, crops: Sequence[Tensor]) -> Tensor:
        """Unit vectors ``(N, D)`` of network inputs; those of equal shape share a forward pass."""
        rows: dict[int, Tensor] = {}
        for numbers in group_equal([tuple(c.shape) for c in crops]):
            images = torch.stack([crops[n] for n in numbers]).to(self.device).float() / 255
            images = jitter_colours(flip_some(images) if self.flip else images, self.colour_jitter)
            images = images.contiguous(memory_format=torch.channels_last)  # a fifth faster in training on a CPU
            rows.update(zip(numbers, self.describer.embed_crops(images), strict=True))
        if not rows:
            return torch.zeros(0, self.describer.dim, device=self.device)
        return torch.stack([rows[n] for n in range(len(crops))])

    def _describe(self, examples: Examples, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors, instances and example numbers of the boxes of the first examples with ``most`` boxes in total."""
        vectors = [torch.zeros(0, self.describer.dim)]
        instances, images = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
        count = 0
        for number, described, example in self._described_one_by_one(examples):
            vectors.append(described)
            instances.append(example.instances)
            images.append(torch.full((len(described),), number))
            count += len(described)
            if count >= most:
                break
        return torch.cat(vectors), torch.cat(instances), torch.cat(images)

    def _described_one_by_one(self, examples: Examples) -> Iterator[tuple[int, Tensor, Example]]:
        for numbers in batched(range(len(examples)), BATCH):
            some = [examples[n] for n in numbers]
            described = self.describer.describe([e.photo for e in some], [e.regions for e in some])
            for number, one, example in zip(numbers, described, some, strict=True):
                yield number, as_tensor(one.vectors), example


@contextmanager
def train_mode(network: nn.Module) -> Iterator[None]:
    """Put all layers of ``network`` in train mode within the context: batch norms use and update batch statistics.

    Backbones and describers otherwise stay in eval mode, even after ``train()``, because a description must not depend
    on the rest of its batch. A task that trains their batch norms uses this context for a forward pass.
    """
    before = [(module, module.training) for module in network.modules()]
    for module, _ in before:
        module.training = True
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
