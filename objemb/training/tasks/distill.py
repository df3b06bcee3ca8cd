"""Distillation of a frozen teacher's embedding into a head of a detector."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from objemb import checks
from objemb.aggregators.keep import Keep
from objemb.card import Provenance
from objemb.config import read_yaml
from objemb.describers.base import Describer
from objemb.describers.capabilities import BoxEmbedder
from objemb.detectors.capabilities import NetworkInput
from objemb.evaluation.average_precision import coco_average_precision
from objemb.losses.distillation import cosine_loss, l2_loss, relational_loss
from objemb.models.model import Model
from objemb.models.state import without_weights
from objemb.ops.tensors import l2
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.training.comparison import Comparison, VisibleBoxes, compare, detection_metrics
from objemb.training.data.base import Example, Examples, expect_boxes
from objemb.training.model_card import make_card, write_card
from objemb.training.optimizer import ParameterGroup, groups_by_factor
from objemb.training.pictures import neighbours
from objemb.training.region_sampling import RegionSampling, region_weights
from objemb.training.run_folder import CONFIG, MODEL
from objemb.training.task import Task
from objemb.training.teacher import Teacher
from objemb.visualize.plots import new_figure

LOSSES = ("cosine", "l2", "relational")
MODES = ("head", "head+trunk", "joint")
STARTS = ("random", "teacher", "regression")
GROUND_TRUTH = RegionSampling()


@plugin
class Distill(Task):
    """Trains the embedding head of a detector to reproduce the vectors of a slower model.

    ::

        photo ──┬── detector ── maps ── head ──── student's vectors ──┐
                │                         │                           ├── loss
                └───────── teacher ── boxes of the guidance ── teacher's vectors

    After Chen, Davis and Lim, "An analysis of object embeddings for image retrieval", 2019, who guide the embeddings of
    a detector by a classification network; all other choices of boxes, losses and schedules are this project's own.

    Args:
        describer: The student: a ``one_pass`` whose detector has trained weights.
        teacher: A model folder, or settings of a describer. Its vectors must have the student's length.
        data: Photos with ground-truth boxes, used as set by ``guidance``.
        validation: Photos with ground-truth boxes for comparing student and teacher; retrieval figures need identities.
        guidance: The boxes that are described, and their weights.
        loss: Weights of ``cosine``, ``l2`` (on vectors that are not normalised, see :meth:`Teacher.vectors`) and
            ``relational``; see :mod:`objemb.losses.distillation`.
        train: ``head``: only the head, so that detections stay bit-identical. ``head+trunk``: also the detector's
            parameters, by the same loss. ``joint``: also by the detector's own losses, which preserve its detections.
        factors: Patterns of the detector's parameter names, each with a factor on the learning rate, if the detector is
            trained; see :func:`objemb.training.optimizer.groups_by_factor`.
        embedding_weight: Weight of the embedding loss relative to the detector's: the lambda of
            ``L_det + lambda L_embed``.
        start: Initial weights of the head: ``random``; ``teacher``: the teacher's layers, for heads that have them;
            ``regression``: random, except that the last layer is fitted to the teacher's vectors in closed form, see
            :meth:`objemb.heads.base.Head.fit`.
        start_boxes: Number of boxes for ``regression``, from photos drawn at random from ``data``.
        start_strength: Strength of the penalty for ``regression``.
        cache: Folder for the teacher's vectors, so that other runs can reuse them; None keeps them in memory only.
        cache_size: Maximum number of vectors in memory.
        precompute: Number of examples that the teacher describes before the first step, with a progress bar.
        card: Whether to write a distillation card into the model folder; needs ``validation``.

    Raises:
        TypeError: The student is not a ``one_pass``.
        ValueError: The vectors of teacher and student differ in length, the data have no box, a pattern matches no
            parameter, or a loss is unknown.
    """

    after = ("card",)

    def __init__(
        self,
        *,
        describer: Describer,
        teacher: str | Path | Mapping[str, object],
        data: Examples,
        validation: Examples | None = None,
        guidance: RegionSampling = GROUND_TRUTH,
        loss: Mapping[str, float] = MappingProxyType({"cosine": 1.0}),
        train: str = "head",
        factors: Mapping[str, float] = MappingProxyType({"*": 0.1}),
        embedding_weight: float = 1.0,
        start: str = "random",
        start_boxes: int = 4000,
        start_strength: float = 0.01,
        cache: str | Path | None = None,
        cache_size: int = 100_000,
        precompute: int = 0,
        card: bool = True,
    ) -> None:
        super().__init__()
        self.describer = _student(describer)
        self.teacher = Teacher.open(teacher, cache=cache, capacity=cache_size)
        self.teacher.expect_dim(self.describer.dim)
        self.examples, self.validation = data, validation
        self.guidance = guidance
        self.loss = _loss_weights(loss)
        self.mode = checks.one_of("train", train, MODES)
        if self.mode == "joint" or "detections" not in self.guidance.sources:
            expect_boxes("data", data)
        self.embedding_weight = checks.positive("embedding_weight", embedding_weight)
        self.precompute = min(checks.whole("precompute", precompute, 0), len(data))
        if self.precompute and self.mode != "head" and self.guidance.needs_detector:
            raise ValueError(
                f"precompute: expected boxes that do not change during training, found train={train!r} with detections"
            )
        self.card = checks.flag("card", card)
        self.start = checks.one_of("start", start, STARTS)
        self.start_boxes = checks.whole("start_boxes", start_boxes, 2)
        self.start_strength = checks.positive("start_strength", start_strength)
        if self.start == "teacher":
            self.teacher.start(self.describer.head)
        elif self.start == "regression":
            self.describer.head.expect_linear()
        self.requires_grad_(False)
        self.describer.head.requires_grad_(True)
        self._comparison: Comparison | None = None
        self._trained = [] if self.mode == "head" else groups_by_factor(self.describer.detector, factors)
        for group in self._trained:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        # the initial state of the detector, compared with the trained one at the end; not needed if it is not trained
        self._before = (
            {n: v.detach().clone() for n, v in self.describer.detector.state_dict().items()} if self._trained else None
        )

    @staticmethod
    def learned(settings: Mapping[str, object]) -> tuple[str, ...]:
        """See :meth:`Task.learned`."""
        detector = () if settings.get("train", "head") == "head" else ("describer.detector",)
        return ("describer.head", *detector)

    def check(self) -> None:
        """Raises ``ValueError`` or ``ImportError`` if something that validation or the card needs is missing."""
        if self.validation is None:
            return
        if len(self.validation) == 0:
            raise ValueError("validation: expected at least one example, found none")
        if self.validation.classes:
            coco_average_precision([], [])
        if self.card:
            new_figure()

    def parameter_groups(self) -> list[ParameterGroup]:
        """The head and the trained parameters of the detector."""
        return [{"params": list(self.describer.head.parameters()), "factor": 1.0}, *self._trained]

    def begin(self) -> bool:
        """Fit the last layer of the head for ``start: regression``."""
        if self.start != "regression":
            return False
        self.teacher.to(self.device)
        pooled, targets = self._pooled_and_targets()
        self.describer.head.fit(pooled, targets.to(pooled.device), self.start_strength)
        return True

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """The weighted losses of the vectors and, in ``joint`` training, those of the detector.

        Returns:
            Float scalars: the detector's losses by its names, then those of ``loss``: float32 distances between the
            student's and the teacher's vectors ``(N, D)`` of the N boxes of the batch; 0 without a box.
        """
        self.teacher.to(self.device)
        self._describe_ahead()
        variants = torch.randint(self.guidance.variants, (len(batch),)).tolist()
        student, targets, weights, terms = [], [], [], []
        for numbers in self.describer.detector.groups([e.photo for e in batch]):
            examples = [batch[n] for n in numbers]
            photos = [e.photo for e in examples]
            inputs, maps = self._features(photos)
            regions = self._sample(inputs, maps, examples, [variants[n] for n in numbers])
            student.append(self.describer.embed_boxes(photos, regions, inputs, maps, unit=False))
            targets += self.teacher.vectors(photos, regions, unit=False)
            weights.append(region_weights(regions))
            if self.mode == "joint" and maps is not None:
                detector_losses = self.describer.detector.losses(inputs, maps, [e.regions for e in examples], photos)
                terms.append({name: term * len(numbers) / len(batch) for name, term in detector_losses.items()})
        embedding = self._compare(torch.cat(student), torch.cat(targets), torch.cat(weights))
        return {**_sum(terms), **embedding}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cosine to the teacher, also by size; mAP and P@1 of the student if identities are known; AP if the detector
        is trained and labels are known.
        """
        if self.validation is None:
            return {}
        self.teacher.to(self.device)
        self._comparison = compare(self.describer, self.teacher, self.validation)
        detector_figures = detection_metrics(self.describer.detector, self.validation) if self._trained else {}
        return {**self._comparison.figures(), **detector_figures}

    def pictures(self) -> dict[str, Tensor]:
        """``neighbours``: some boxes of the validation data and their nearest neighbours by the student's vectors."""
        if self.validation is None or self._comparison is None:
            return {}
        comparison, shown = self._comparison, VisibleBoxes(self.validation)
        return {"neighbours": neighbours(shown, comparison.student, comparison.instances, comparison.images)}

    def model(self) -> Model:
        """The student as a model."""
        settings = {"describer": without_weights(self.settings["describer"]), "aggregator": {"name": "keep"}}
        provenance: Provenance = {"teacher": self.teacher.fingerprint}
        return Model(self.describer, Keep(), settings, provenance, str(self.device))

    def finish(self, folder: Path) -> None:
        """Write the distillation card into the model folder."""
        if not self.card or self.validation is None:
            return
        about = {
            "examples": len(self.examples),
            "task": dict(self.settings),
            **({"run": read_yaml(folder / CONFIG).get("run")} if (folder / CONFIG).is_file() else {}),
            "command": shlex.join(sys.argv),
        }
        card = make_card(self.describer, self.teacher, self.validation, before=self._before, about=about)
        write_card(card, folder / MODEL)

    @torch.no_grad()
    def _pooled_and_targets(self) -> tuple[Tensor, Tensor]:
        """Inputs of the head's last layer, ``(N, F)``, and the teacher's unit vectors, ``(N, D)``, for ``start_boxes``
        boxes or all there are.
        """
        pooled: list[Tensor] = []
        targets: list[Tensor] = []
        console = Console(stderr=True)
        hidden = not console.is_terminal
        numbers = torch.randperm(len(self.examples)).tolist()
        for number in track(numbers, "regression", None, console=console, transient=True, disable=hidden):
            example = self.examples[number]
            inputs, maps = self._features([example.photo])
            regions = self._sample(inputs, maps, [example], [0])
            pooled.append(
                self.describer.embed_boxes([example.photo], regions, inputs, maps, unit=False, projected=False)
            )
            targets += self.teacher.vectors([example.photo], regions)
            if sum(map(len, targets)) >= self.start_boxes:
                break
        count = sum(map(len, targets))
        if count < 2:
            raise ValueError(f"data: expected at least 2 boxes for start=regression, found {count}")
        return torch.cat(pooled), torch.cat(targets)

    def _features(self, photos: Sequence[Photo]) -> tuple[NetworkInput, dict[str, Tensor] | None]:
        """The detector's input and its feature maps, with gradients only if the detector is trained; the maps are None
        if only the head needs maps, which then computes its own."""
        detector = self.describer.detector
        batch = detector.preprocess(photos)
        if self.mode != "joint" and not self.guidance.needs_detector:
            return batch, None
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self._trained)):
            return batch, detector.features(batch)

    @torch.no_grad()
    def _sample(
        self,
        inputs: NetworkInput | None,
        maps: dict[str, Tensor] | None,
        examples: Sequence[Example],
        variants: Sequence[int],
    ) -> list[Regions]:
        """The boxes to train on, per example; input and maps are needed only for the detector's own boxes."""
        detector, photos = self.describer.detector, [e.photo for e in examples]
        nothing: list[Regions | None] = [None] * len(photos)
        detections, proposals = nothing, nothing
        if inputs is not None and maps is not None and "detections" in self.guidance.sources:
            detected = detector.regions(inputs, maps, photos)
            detections = [self.describer.regions.select(f)[1:] for f in detected]  # without the whole image
        if inputs is not None and maps is not None and "proposals" in self.guidance.sources:
            proposals = [*detector.proposals(inputs, maps, photos)]
        return [
            self.guidance.regions(e.photo.id, e.regions, variant, detections=detection, proposals=proposed)
            for e, variant, detection, proposed in zip(examples, variants, detections, proposals, strict=True)
        ]

    def _compare(self, student: Tensor, teacher: Tensor, weights: Tensor) -> dict[str, Tensor]:
        teacher, weights = teacher.to(student.device), weights.to(student.device)
        sides = l2(student), l2(teacher), weights
        terms = {
            "cosine": lambda: cosine_loss(*sides),
            "l2": lambda: l2_loss(student, teacher, weights),
            "relational": lambda: relational_loss(*sides),
        }
        scale = self.embedding_weight if self.mode == "joint" else 1.0
        return {name: scale * weight * terms[name]() for name, weight in self.loss.items()}

    def _describe_ahead(self) -> None:
        """Let the teacher describe the first examples, divided among the processes."""
        count, self.precompute = self.precompute, 0
        if not count:
            return
        spread = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, processes = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if spread else (0, 1)
        numbers = range(rank, count, processes)
        console = Console(stderr=True)
        shown = console.is_terminal and rank == 0
        for number in track(numbers, "teacher", console=console, transient=True, disable=not shown):
            example = self.examples[number]
            inputs, maps = self._features([example.photo]) if self.guidance.needs_detector else (None, None)
            for variant in range(self.guidance.variants):
                regions = self._sample(inputs, maps, [example], [variant])
                self.teacher.vectors([example.photo], regions)


def _student(describer: Describer) -> BoxEmbedder:
    if not isinstance(describer, BoxEmbedder):
        raise TypeError(f"describer: expected a one_pass to be trained, found {type(describer).__name__}")
    if describer.whitening is not None:
        raise ValueError("describer: expected a student without a whitening (it learns the teacher's), found one")
    return describer


def _loss_weights(loss: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(loss, Mapping):
        raise ValueError(f"loss: expected weights such as {{cosine: 1, relational: 0.1}}, found {loss!r}")
    weights = {
        checks.one_of("loss", name, LOSSES): checks.between(f"loss.{name}", w, 0, 1e6) for name, w in loss.items()
    }
    used = {name: float(weight) for name, weight in weights.items() if weight > 0}
    if not used:
        raise ValueError(f"loss: expected a weight above 0 of {checks.listed(LOSSES)}, found {dict(loss)}")
    return used


def _sum(terms: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sum the terms of each name."""
    return {name: torch.stack([t[name] for t in terms]).sum() for name in (terms[0] if terms else ())}
