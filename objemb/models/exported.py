"""A model that was exported by ``objemb export``: its graphs are run by a runtime, and PyTorch is not needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from objemb import checks, config, registry
from objemb.card import CARD, ModelCard, Provenance, read_card
from objemb.checks import ArtefactMismatchError
from objemb.models.base import ALONE, REGION, WHOLE, EmbeddingModel, OpenQuery, least_longest_side
from objemb.models.base import PART as AS_PART
from objemb.ops.batches import batched, group_equal
from objemb.rerank.base import Reranker
from objemb.runtimes.base import Runtime, Session, readers
from objemb.runtimes.exported import BOXES, PART, PHOTOS, Exported
from objemb.structures import NO_LABEL, Described, Photo, RegionDescriptors, Regions
from objemb.structures.described import expect_vectors
from objemb.types import AnyArray, Float32Array, Settings

log = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")

AUTO = "auto"
#: Outputs of the graph of photos that describe detected boxes, except for their vectors.
DETECTION_OUTPUTS = ("boxes", "labels", "scores", "count")
#: Extractors that resize every region to one size, so that a part of a photo has the same vector as a separate photo.
ONE_SIZE = ("crop", "pyramid")


@dataclass(frozen=True, eq=False, repr=False)
class ExportedModel(EmbeddingModel):
    """An exported model whose graphs are loaded.

    Its vectors equal those of the original model up to rounding, and its fingerprint is the same, so that both can
    search the same index.

    Attributes:
        card: The card of its folder.
        exported: The part of the card about the graphs.
        path: The folder.
        runtime: The runtime that runs the graphs.
        sessions: The loaded graphs, by name.
        precision: The precision of the graphs, or if they are in float32, that in which the runtime computes them,
            which is another one than was asked for where the processor lacks it.
        most: Maximum number of detected boxes per photo; None for all that the graphs return.
    """

    card: ModelCard
    exported: Exported
    path: Path
    runtime: Runtime
    sessions: Mapping[str, Session]
    precision: str
    most: int | None = None

    gives = RegionDescriptors
    kernel = None
    photo_describer = None
    device = "cpu"

    @property
    def settings(self) -> Settings:  # type: ignore[override]  # the card contains it
        """See :attr:`EmbeddingModel.settings`."""
        return self.card["settings"]

    @property
    def provenance(self) -> Provenance:  # type: ignore[override]  # likewise
        """See :attr:`EmbeddingModel.provenance`."""
        return self.card.get("provenance", {})

    @property
    def fingerprint(self) -> str:
        """See :attr:`EmbeddingModel.fingerprint`."""
        return str(self.card["fingerprint"])

    @property
    def dim(self) -> int:
        """See :attr:`EmbeddingModel.dim`."""
        return int(self.card["dim"])

    @property
    def per_region(self) -> bool:
        """See :attr:`EmbeddingModel.per_region`."""
        return self.exported.per_region

    @property
    def has_detector(self) -> bool:
        """See :attr:`EmbeddingModel.has_detector`."""
        return set(DETECTION_OUTPUTS) <= {spec.name for spec in self.exported.graphs[PHOTOS].outputs}

    @property
    def decode_side(self) -> int | None:
        """See :attr:`EmbeddingModel.decode_side`."""
        return self.exported.decode_side

    @property
    def untrained(self) -> list[str]:
        """See :attr:`EmbeddingModel.untrained`."""
        return list(self.exported.untrained)

    @property
    def computation(self) -> dict[str, object]:
        """See :attr:`EmbeddingModel.computation`."""
        files = {name: facts["sha256"] for name, facts in self.card["files"].items()}
        return {
            **{"device": self.device, "precision": self.precision},
            **{"runtime": self.runtime.registry_name, "graphs": files},
        }

    @property
    def fitted_on(self) -> dict[str, str]:
        """See :attr:`EmbeddingModel.fitted_on`."""
        whitening = self.card.get("whitening")
        parts = {**self.card.get("fitted", {}), **({} if whitening is None else {"whitening": whitening})}
        return {name: str(facts["fitted_on"]) for name, facts in parts.items()}

    @property
    def rerankers(self) -> tuple[Reranker, ...]:
        """See :attr:`EmbeddingModel.rerankers`."""
        return tuple(registry.build(Reranker, step) for step in self.settings.get("rerank") or [])

    def limited(self, max_regions: int) -> ExportedModel:
        """See :meth:`EmbeddingModel.limited`."""
        self._expect_regions(False, checks.whole("max_regions", max_regions, 0))
        return replace(self, most=max_regions)

    def reranked(self, steps: Sequence[Settings]) -> ExportedModel:
        """See :meth:`EmbeddingModel.reranked`."""
        settings = config.resolve({**self.settings, "rerank": list(steps)})
        return replace(self, card={**self.card, "settings": settings})

    def computing(self) -> AbstractContextManager[None]:
        """See :meth:`EmbeddingModel.computing`."""
        return nullcontext()

    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """See :meth:`EmbeddingModel.least_cut_side`."""
        return None if crop == "whole" or self._becomes(crop) != ALONE else least_longest_side(boxes)

    def shapes_of(self, query: OpenQuery) -> Hashable | None:
        """See :meth:`EmbeddingModel.shapes_of`: the graph of photos may take several, the others take one."""
        whole = isinstance(query.boxes, str) and query.boxes == WHOLE
        by_boxes = self.per_region and BOXES in self.sessions
        return query.photo.pixels.shape if whole and self.exported.batch > 1 and not by_boxes else None

    def _becomes(self, crop: str) -> str:
        """What a query box becomes: ``REGION``, ``PART`` or ``ALONE``.

        Raises:
            ValueError: It would have to be cut out at the scale of its photo, but the graphs resize their input.
        """
        if crop == "crop":
            return ALONE
        extractor = self.settings["describer"].get("extractor")
        if self.exported.in_context and (crop == "context" or extractor is None):
            return REGION
        if PART in self.sessions:
            return AS_PART
        if extractor is not None and extractor.get("name") not in ONE_SIZE:
            raise ValueError(
                "crop: expected 'crop' or 'whole' for this exported model, whose graphs resize every input to the size "
                f"of a photo, found {crop!r}"
            )
        return ALONE

    def _rows(  # type: ignore[override]  # vectors only
        self, photos: Sequence[Photo], given: Sequence[Regions] | None, max_regions: int | None
    ) -> list[RegionDescriptors]:
        """See :meth:`EmbeddingModel._rows`."""
        if given is not None:
            pairs = list(zip(photos, given, strict=True))
            return self._each(lambda pair: self._of_boxes(*pair), pairs)

        def described(numbers: Sequence[int]) -> list[tuple[int, RegionDescriptors]]:
            batch = self._outputs([photos[number] for number in numbers])
            of_photos = ({name: array[place] for name, array in batch.items()} for place in range(len(numbers)))
            return [
                (n, self._row(photos[n], outputs, max_regions)) for n, outputs in zip(numbers, of_photos, strict=True)
            ]

        groups = group_equal(photo.pixels.shape for photo in photos)
        batches = [some for numbers in groups for some in batched(numbers, self.exported.batch)]
        rows = dict(row for of_batch in self._each(described, batches) for row in of_batch)
        return [rows[number] for number in range(len(photos))]

    def _each(self, call: Callable[[A], T], arguments: Sequence[A]) -> list[T]:
        """The results of calls in order. As many run at the same time as the runtime asks for, since the layers of
        small networks do not occupy all cores."""
        at_once = min(len(arguments), max(session.at_once for session in self.sessions.values()))
        if at_once < 2:
            return [call(argument) for argument in arguments]
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(call, arguments))

    def _expect_regions(self, given: bool, max_regions: int | None) -> None:
        """See :meth:`EmbeddingModel._expect_regions`. Where query boxes are cut out, the row of a photo is computed in
        its graph."""
        if not self.exported.in_context and (given or (max_regions is not None and self.has_detector)):
            found = "boxes" if given else f"max_regions={max_regions}"
            raise ValueError(
                f"expected no other regions than the model's own, since this exported model makes one row per photo, "
                f"found {found}"
            )

    def _as_taken(self, photo: Photo) -> Photo:
        """See :meth:`EmbeddingModel._as_taken`."""
        if self.exported.size is None:
            return photo
        height, width = self.exported.size
        return Photo(photo.id, np.resize(photo.pixels, (3, height, width)), (height, width))

    def _outputs(self, photos: Sequence[Photo]) -> dict[str, AnyArray]:
        """Run the graph of photos on photos of one shape, at most a batch. An incomplete batch is padded with its last
        photo."""
        size = self.exported.size
        for photo in photos:
            if size is not None and photo.pixels.shape[1:] != size:
                width, height = photo.pixels.shape[2], photo.pixels.shape[1]
                raise ValueError(
                    f"photo: expected {size[1]} x {size[0]} pixels, for which the model was exported, found "
                    f"{width} x {height}"
                )
        pixels = [photo.interleaved() for photo in photos]
        pixels += pixels[-1:] * (self.exported.batch - len(pixels))
        return self.sessions[PHOTOS]({"photos": np.stack(pixels)})

    def _row(self, photo: Photo, outputs: Mapping[str, AnyArray], max_regions: int | None) -> RegionDescriptors:
        """The rows of a photo from the outputs of the graph of photos."""
        if not self.exported.in_context:
            return RegionDescriptors(photo.id, Regions.whole(photo.size), outputs["whole"][None], photo.metadata)
        regions = self._regions(photo, outputs)[: None if max_regions is None else 1 + max_regions]
        if "whole" not in outputs:  # the graph only detects; that of boxes describes
            return self._of_boxes(photo, regions)
        vectors = outputs["whole"][None]
        if "vectors" in outputs:
            vectors = np.concatenate([vectors, outputs["vectors"][: len(regions) - 1]])
        return RegionDescriptors(photo.id, regions, vectors, photo.metadata)

    def _regions(self, photo: Photo, outputs: Mapping[str, AnyArray]) -> Regions:
        """The whole photo, then its detected boxes, in pixels of the original."""
        if not self.has_detector:
            return Regions.whole(photo.size)
        count = int(outputs["count"])
        height, width = photo.size
        y, x = photo.scale
        boxes = outputs["boxes"][:count] / np.array([x, y, x, y], np.float32)
        inside = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        count = count if self.most is None else min(count, self.most)
        return Regions(
            inside[:count], photo.size, outputs["scores"][:count], outputs["labels"][:count], self.exported.classes
        ).with_whole()

    def _of_boxes(self, photo: Photo, boxes: Regions) -> RegionDescriptors:
        """Boxes of a photo, described in it."""
        vectors = np.zeros((0, self.dim), np.float32)
        if len(boxes):
            y, x = photo.scale
            scaled: Float32Array = boxes.boxes * np.array([x, y, x, y], np.float32)
            vectors = self.sessions[BOXES]({"photo": photo.interleaved(), "boxes": scaled})["vectors"]
        return RegionDescriptors(photo.id, boxes, vectors, photo.metadata)

    def _of_part(self, photo: Photo, part: Photo) -> Float32Array:
        """The vector ``(1, D)`` of a part at the scale of its photo."""
        rows, columns = (np.zeros(side, np.uint8) for side in photo.pixels.shape[1:])
        inputs = {"part": part.interleaved(), "rows": rows, "columns": columns}
        vector: Float32Array = self.sessions[PART](inputs)["whole"]
        return vector

    def _regions_of(self, photo: Photo) -> Regions:
        """See :meth:`EmbeddingModel._regions_of`."""
        outputs = self._outputs([photo])
        return self._regions(photo, {name: array[0] for name, array in outputs.items()})

    def _objects_of(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`EmbeddingModel._objects_of`."""
        found = [self._regions_of(photo) for photo in photos]
        if not self.exported.covers:
            return found
        return [regions[np.concatenate([[0], 1 + np.flatnonzero(regions.labels[1:] != NO_LABEL)])] for regions in found]

    def _query_whole(self, photos: Sequence[Photo]) -> list[Described]:
        """See :meth:`EmbeddingModel._query_whole`."""
        wholes = [Regions.whole(photo.size) for photo in photos]
        if self.per_region and BOXES in self.sessions:
            return list(self._each(lambda pair: self._of_boxes(*pair), list(zip(photos, wholes, strict=True))))
        rows = self._rows(photos, None, None)
        return [
            RegionDescriptors(photo.id, whole, row.vectors[:1], photo.metadata)
            for photo, whole, row in zip(photos, wholes, rows, strict=True)
        ]

    def _query_boxes(self, photos: Sequence[Photo], boxes: Sequence[Regions], crop: str) -> list[Described]:
        """See :meth:`EmbeddingModel._query_boxes`."""
        becomes = ALONE if crop == "whole" else self._becomes(crop)
        if becomes == REGION:
            return list(self._each(lambda pair: self._of_boxes(*pair), list(zip(photos, boxes, strict=True))))
        none = np.zeros((0, self.dim), np.float32)
        rows = []
        for photo, given in zip(photos, boxes, strict=True):
            if becomes == AS_PART:
                rows.append(np.concatenate([none, *(self._of_part(photo, photo.part(box)) for box in given)]))
                continue
            # a box is either the whole photo that it is in, or a photo of its own
            cuts = [photo] if crop == "whole" else [photo.part(box) for box in given]
            vectors = [expect_vectors("query", cut).vectors for cut in (self._query_whole(cuts) if cuts else [])]
            rows.append(vectors[0].repeat(len(given), axis=0) if crop == "whole" else np.concatenate([none, *vectors]))
        return [
            RegionDescriptors(photo.id, given, vectors, photo.metadata)
            for photo, given, vectors in zip(photos, boxes, rows, strict=True)
        ]


def open_exported(
    folder: str | Path, *, runtime: str | None = None, precision: str = AUTO, threads: int | None = None
) -> ExportedModel:
    """Open a model folder written by ``objemb export``. Nothing is downloaded.

    Args:
        folder: The folder.
        runtime: The name of a runtime, such as ``openvino``; by default the first installed one that supports the
            format of the graphs.
        precision: ``auto`` for the precision of the graphs. For graphs in float32, also a lower precision in which the
            runtime is to compute.
        threads: Number of threads; by default the runtime decides.

    Raises:
        FileNotFoundError: The folder is not a model folder.
        ArtefactMismatchError: Files are damaged or do not belong together.
        ImportError: The runtime, or any runtime for this format, is not installed; the message says what to install.
        ValueError: The precision or the runtime does not exist, or the graphs have another precision.
    """
    folder = Path(folder)
    card = read_card(folder)
    exported = Exported.of_card(card, folder)
    checks.whole("dim", card.get("dim", 0))
    own = exported.precision if exported.precision != "fp32" else None
    if own is not None and precision not in (AUTO, own):
        raise ValueError(f"precision: expected {own!r}, in which {folder} was exported, found {precision!r}")
    asked = "fp32" if own is not None or precision == AUTO else precision
    engine = _runtime(exported.format, runtime, precision=asked, threads=threads)
    sessions = {name: engine.open(name, exported, card, folder) for name in exported.graphs}
    model = ExportedModel(card, exported, folder, engine, sessions, own or sessions[PHOTOS].precision)
    _expect_complete(model)
    log.info("%s: model %s by %s in %s", folder, model.fingerprint[:12], engine.registry_name, model.precision)
    return model


def is_available(runtime: str) -> bool:
    """Whether a runtime of this name exists and is installed."""
    return runtime in registry.names(Runtime.kind) and registry.load(Runtime, runtime).is_installed()


def _runtime(format: str, name: str | None, **settings: object) -> Runtime:
    """The named runtime, or the first installed one that supports a format."""
    if name is not None:
        return registry.build(Runtime, {"name": name, **settings})
    reading = readers(format)
    for each in reading:
        if each.is_installed():
            return registry.build(Runtime, {"name": each.registry_name, **settings})
    raise ImportError(
        f"runtime: expected one that reads {format!r}, found none installed; "
        f"pip install 'objemb[{reading[0].registry_name}]'"
    )


def _expect_complete(model: ExportedModel) -> None:
    """Raise ``ArtefactMismatchError`` if the graphs do not compute all that the rows of the model need."""
    outputs = {spec.name: spec for spec in model.exported.graphs[PHOTOS].outputs}
    described = "whole" in outputs or (model.per_region and model.has_detector and BOXES in model.sessions)
    vectors = [outputs[name] for name in ("whole", "vectors") if name in outputs]
    for name in {BOXES, PART} & model.exported.graphs.keys():
        vectors += model.exported.graphs[name].outputs
    lengths = {spec.shape[-1] for spec in vectors}
    if not described or not lengths <= {model.dim}:
        found = f"{checks.listed(outputs)} with vectors of {checks.listed(lengths)}"
        raise ArtefactMismatchError(
            f"{model.path / CARD}: expected graphs that describe photos by vectors of {model.dim}, found {found}"
        )
