"""A describer as programs of ``torch.export``, and what they are called with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from objemb.backbones.timm_net import traceable_padding
from objemb.describers.base import DescriptionProgram
from objemb.layers.first_kept import FirstKept
from objemb.runtimes.exported import BOXES, PART, PHOTOS, TensorSpec

#: ``(height, width)`` of the photo that is traced where any size will do: no number of it may become a constant.
EXAMPLE_SIZE = (300, 412)
#: Nodes by which a program refuses what tracing did not expect, such as fewer than two boxes, although its operations
#: are right for any number.
ASSUMED = (
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten.sym_constrain_range.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
)
#: Operators that limit values to a range, their least and greatest value being arguments. PyTorch traces ``clamp`` in a
#: tenth of the time: a student of MobileNetV2 is exported in a seventh less.
LIMITS = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)


@dataclass(frozen=True, eq=False)
class Traced:
    """A graph that is ready to be written.

    Attributes:
        program: What was traced; inputs and outputs have the order of the next two.
        inputs, outputs: As the card names them.
        used: Number of boxes that are used of a non-maximum suppression, by the path of its module.
    """

    program: ExportedProgram
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    used: Mapping[str, int]


class _Photos(nn.Module):
    def __init__(self, program: DescriptionProgram) -> None:
        super().__init__()
        self.program = program

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.program.photos(photos).values())


class _Boxes(nn.Module):
    def __init__(self, program: DescriptionProgram) -> None:
        super().__init__()
        self.program = program

    def forward(self, photo: Tensor, boxes: Tensor) -> Tensor:
        return self.program.boxes(photo, boxes)


class _Part(nn.Module):
    def __init__(self, program: DescriptionProgram) -> None:
        super().__init__()
        self.program = program

    def forward(self, part: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return self.program.part(part, rows, columns)


@torch.no_grad()
def traced(
    program: DescriptionProgram, batch: int, size: tuple[int, int] | None, in_context: bool
) -> dict[str, Traced]:
    """The graphs of a describer, as :mod:`objemb.runtimes.exported` lists them.

    Args:
        program: The describer, on the CPU.
        batch: Photos that the graph ``photos`` takes at once.
        size: ``(height, width)`` of the only photos that it takes; None for any.
        in_context: Whether boxes are described in their photo, so that there is a graph ``boxes``; else there is a
            graph ``part`` where parts may keep their scale.
    """
    height, width = size or EXAMPLE_SIZE
    noise = torch.Generator().manual_seed(0)
    photos = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=noise)
    sides = {} if size is not None else {1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    outputs = program.photos(photos)
    of_photos_module, of_boxes_module = _Photos(program), _Boxes(program)
    of_photos = Traced(
        _export(of_photos_module, (photos,), (sides,)),
        (TensorSpec("photos", "uint8", (batch, *(size or (None, None)), 3)),),
        tuple(TensorSpec(name, _dtype(tensor), tuple(tensor.shape)) for name, tensor in outputs.items()),
        _used(of_photos_module),
    )
    if not in_context:
        scaled = program.keeps_scale and size is None
        return {PHOTOS: of_photos, **({PART: _of_parts(program, photos[0].clone())} if scaled else {})}
    boxes = torch.tensor([[0.0, 0.0, width, height], [0.0, 0.0, width / 3, height / 2], [9.0, 9.0, 40.0, 30.0]])
    sides = {} if size is not None else {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    photo = photos[0].clone()  # conditions on a view would name what it is a view of
    dim = program.boxes(photo, boxes).shape[1]
    of_boxes = Traced(
        _export(of_boxes_module, (photo, boxes), (sides, {0: Dim.DYNAMIC})),
        (TensorSpec("photo", "uint8", (*(size or (None, None)), 3)), TensorSpec("boxes", "float32", (None, 4))),
        (TensorSpec("vectors", "float32", (None, dim)),),
        _used(of_boxes_module),
    )
    return {PHOTOS: of_photos, BOXES: of_boxes}


def _of_parts(program: DescriptionProgram, part: Tensor) -> Traced:
    rows, columns = (torch.zeros(2 * side + 1, dtype=torch.uint8) for side in part.shape[:2])
    module = _Part(program)
    found = program.part(part, rows, columns)
    return Traced(
        _export(module, (part, rows, columns), ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC})),
        (
            TensorSpec("part", "uint8", (None, None, 3)),
            TensorSpec("rows", "uint8", (None,)),
            TensorSpec("columns", "uint8", (None,)),
        ),
        (TensorSpec("whole", "float32", tuple(found.shape)),),
        _used(module),
    )


def _used(module: nn.Module) -> dict[str, int]:
    """The number of boxes that are used of each non-maximum suppression, by the path of its module."""
    return {path: part.most for path, part in module.named_modules() if isinstance(part, FirstKept)}


def _export(module: nn.Module, args: tuple[Tensor, ...], shapes: tuple[dict[int, object], ...]) -> ExportedProgram:
    torch.compiler.reset()  # loops may be traced by dynamo, which takes sizes of other models for special
    with warnings.catch_warnings(), traceable_padding():
        warnings.simplefilter("ignore", FutureWarning)  # of torchvision's operators about PyTorch
        program = torch.export.export(module.eval(), args, dynamic_shapes=shapes, strict=False)
    for part in program.graph_module.modules():  # the bodies of loops are parts of their own
        if isinstance(part, torch.fx.GraphModule):
            for node in reversed(part.graph.nodes):
                if node.target in ASSUMED:
                    part.graph.erase_node(node)
                elif node.target in LIMITS and len(node.args) == 3 and len(node.args[0].users) == 1:
                    node.target = torch.ops.aten.clamp.default
            part.graph.eliminate_dead_code()
            part.recompile()
    return program


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
