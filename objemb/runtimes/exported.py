"""What an exported model folder holds: graphs that turn photos into boxes and vectors, and how they are called.

::

    DIR/model.json     the card of the model, with its fingerprint, and the key ``export``: see :class:`Exported`
    DIR/photos.onnx    photos to boxes, labels, scores and vectors
    DIR/boxes.onnx     a photo and boxes to vectors, for query boxes
    DIR/part.onnx      a part of a photo to a vector, for query boxes that are cut out

For OpenVINO each graph is an ``.xml`` and a ``.bin``, for ``torch.export`` a ``.pt2``. All have one contract:

==========  ==============  ==================  ================================================================
graph       tensor          type, shape         meaning
==========  ==============  ==================  ================================================================
``photos``  in ``photos``   uint8 (B, H, W, 3)  RGB, upright; B and, where the size is fixed, H and W are given
            ``boxes``       float32 (B, K, 4)   x1, y1, x2, y2 edges in pixels of the photo that was given, best
                                                first; rows from ``count`` on are zeros
            ``labels``      int64 (B, K)        0-based, as in ``classes``, -1 for none; zeros from ``count`` on
            ``scores``      float32 (B, K)      zeros from ``count`` on
            ``count``       int64 (B,)          boxes of each photo, 0 to K
            ``vectors``     float32 (B, K, D)   of the boxes, row for row; unit length, zeros from ``count`` on
            ``whole``       float32 (B, D)      of the whole photo; of a model of one row per photo, that row
``boxes``   in ``photo``    uint8 (H, W, 3)     as above
            in ``boxes``    float32 (N, 4)      edges in pixels of the photo that is given; N at least 1
            ``vectors``     float32 (N, D)      unit vectors of the boxes
``part``    in ``part``     uint8 (H, W, 3)     a box cut out of a photo
            in ``rows``     uint8 (R,)          R is the height of this photo in pixels; values are not read
            in ``columns``  uint8 (C,)          C is its width
            ``whole``       float32 (1, D)      of the part, as of a photo, at the scale of this photo
==========  ==============  ==================  ================================================================

A model that finds no boxes has ``whole`` alone, and one that finds boxes but describes them by another network
has no ``vectors`` and no ``whole``: its ``boxes`` graph describes both. A model of one row per photo has no
``vectors``, and no graph ``boxes``, since query boxes are cut out; where photos of any size enter a map, it has
``part``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from objemb import checks
from objemb.card import CARD, ModelCard, checked_content
from objemb.checks import ArtefactMismatchError
from objemb.types import Settings

#: The key of the card.
EXPORT: Final = "export"
FORMATS = ("onnx", "openvino", "pt2")
PRECISIONS = ("fp32", "fp16", "int8")
#: Names of graphs.
PHOTOS, BOXES, PART = "photos", "boxes", "part"
#: How the reference of an ONNX tensor to another file begins: the key ``location`` of its ``external_data``.
ELSEWHERE = b"\x0a\x08location\x12"
#: The fingerprint of the model that a graph was made of, as it stands in files of ONNX and of OpenVINO.
MADE_OF = re.compile(rb'objemb\.fingerprint(?:\x12@| value=")([0-9a-f]{64})')


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: Its name in the graph; inputs and outputs of a ``.pt2`` have the order of the card instead.
        dtype: As NumPy calls it.
        shape: A number for each axis of a known length, None for the others.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """One graph of an exported model.

    Attributes:
        files: Names in the folder, the one to open first.
        inputs, outputs: In the order of the graph.
    """

    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Exported:
    """The key ``export`` of a card.

    Attributes:
        format: One of ``FORMATS``.
        precision: One of ``PRECISIONS``: that of the networks; boxes, scores and vectors are float32.
        graphs: By name, ``photos``, ``boxes`` and ``part``.
        batch: Photos that the graph ``photos`` takes at once, all of one size.
        size: ``(height, width)`` of the only photos that it takes; None for any size.
        max_detections: K.
        classes: Names of the labels; empty where they are unknown.
        decode_side: The longest side of a photo in pixels that is of use, None for full resolution.
        per_region: Whether the index of the model has a row for each region, or one for each photo (then ``whole``).
        in_context: Whether a query box is described in its photo, by the graph ``boxes``, or cut out.
        covers: Whether boxes without a label are no objects, but patches that cover the photo.
        untrained: Keys of the networks of the model that have random values.
        opset: Of ONNX; None for other formats.
        verified: What ``--verify`` measured, and its tolerances, by the name of the runtime; empty where nothing was
            verified.
    """

    format: str
    precision: str
    graphs: Mapping[str, Graph]
    batch: int
    size: tuple[int, int] | None
    max_detections: int
    classes: tuple[str, ...]
    decode_side: int | None
    per_region: bool
    in_context: bool
    covers: bool = False
    untrained: tuple[str, ...] = ()
    opset: int | None = None
    verified: Mapping[str, object] = field(default_factory=dict)

    def as_card(self) -> dict[str, object]:
        """JSON-ready, for :meth:`of_card`."""
        return asdict(self)

    @classmethod
    def of_card(cls, card: ModelCard, folder: str | Path) -> Exported:
        """Read from a card, which a stranger may have written.

        Args:
            card: What :func:`objemb.card.read_card` gave.
            folder: Where it lies, for messages.

        Raises:
            ArtefactMismatchError: It is not the card of an exported model, or says what no such card says.
        """
        said = card.get(EXPORT)
        if not isinstance(said, Mapping):
            raise ArtefactMismatchError(
                f"{Path(folder) / CARD}: expected a model that 'objemb export' made, found one without {EXPORT!r}"
            )
        try:
            graphs = {
                checks.one_of("graphs", name, (PHOTOS, BOXES, PART)): Graph(
                    files=tuple(_file_name(file, card) for file in checks.several("files", graph["files"])),
                    inputs=tuple(_tensor(t) for t in graph["inputs"]),
                    outputs=tuple(_tensor(t) for t in graph["outputs"]),
                )
                for name, graph in said["graphs"].items()
            }
            size = said["size"]
            exported = cls(
                format=checks.one_of("format", said["format"], FORMATS),
                precision=checks.one_of("precision", said["precision"], PRECISIONS),
                graphs=graphs,
                batch=checks.whole("batch", said["batch"]),
                size=None if size is None else (checks.whole("size", size[0]), checks.whole("size", size[1])),
                max_detections=checks.whole("max_detections", said["max_detections"], 0),
                classes=tuple(str(name) for name in said["classes"]),
                decode_side=None if said["decode_side"] is None else checks.whole("decode_side", said["decode_side"]),
                per_region=checks.flag("per_region", said["per_region"]),
                in_context=checks.flag("in_context", said["in_context"]),
                covers=checks.flag("covers", said.get("covers", False)),
                untrained=tuple(str(key) for key in said["untrained"]),
                opset=None if said["opset"] is None else checks.whole("opset", said["opset"]),
                verified=dict(said["verified"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ArtefactMismatchError(
                f"{Path(folder) / CARD}: expected the card of an exported model, found damage in {EXPORT!r}: {reason}"
            ) from error
        if PHOTOS not in graphs:
            raise ArtefactMismatchError(f"{Path(folder) / CARD}: expected a graph {PHOTOS!r}, found {list(graphs)}")
        return exported

    def contents(self, name: str, card: ModelCard, folder: str | Path) -> list[bytes]:
        """The contents of the files of a graph, after checking them against the checksums of the card.

        They are read once: a runtime gets the bytes that were checked, whatever becomes of the folder meanwhile.

        Raises:
            ArtefactMismatchError: One of them is missing, damaged or of another model (by its checksum, or by the
                fingerprint within it), there is no such graph, or it refers to other files.
        """
        if name not in self.graphs:
            raise ArtefactMismatchError(f"{Path(folder) / CARD}: expected a graph {name!r}, found {list(self.graphs)}")
        contents = [checked_content(folder, card, file) for file in self.graphs[name].files]
        for file, content in zip(self.graphs[name].files, contents, strict=True):
            if (found := MADE_OF.search(content)) and found[1].decode() != card["fingerprint"]:
                raise ArtefactMismatchError(
                    f"{Path(folder) / file}: expected a graph of the model with fingerprint {card['fingerprint']!r} "
                    f"as {CARD} says, found one of {found[1].decode()!r}"
                )
        if self.format == "onnx" and ELSEWHERE in contents[0]:
            raise ArtefactMismatchError(
                f"{Path(folder) / self.graphs[name].files[0]}: expected a graph with its weights in it, found one that "
                "reads them from another file, which has no checksum"
            )
        return contents


def _file_name(name: object, card: ModelCard) -> str:
    """A file of the folder itself: a card must not name files elsewhere."""
    plain: list[str] = [file for file in card["files"] if file == Path(file).name]
    return checks.one_of("files", str(name), plain)


def _tensor(said: Settings) -> TensorSpec:
    shape = tuple(None if side is None else checks.whole("shape", side, 0) for side in said["shape"])
    return TensorSpec(str(said["name"]), str(said["dtype"]), shape)
