"""Pictures for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from objemb.ops.boxes import scale, windows
from objemb.ops.images import resize
from objemb.ops.tensors import as_tensor
from objemb.structures import Regions
from objemb.training.data.base import Example, Examples

#: Side of a box in the picture and width of its frame, in pixels.
SIDE, FRAME = 64, 3
#: Side of a photo in a sheet in pixels, and the minimum score of the boxes drawn on it.
PHOTO_SIDE, DRAWN_SCORE = 320, 0.5
RIGHT, WRONG, QUERY = (40, 170, 60), (200, 50, 40), (90, 90, 90)


def neighbours(
    examples: Examples, vectors: Tensor, instances: Tensor, images: Tensor, *, rows: int = 8, columns: int = 6
) -> Tensor:
    """Rows of query boxes, each followed by its nearest neighbours in other images.

    Args:
        examples: The examples that contain the boxes; all boxes of each example in ``images``, in order.
        vectors: float ``(N, D)``, compared by dot product.
        instances: int64 ``(N,)``: identities; the frame of a neighbour is green if its identity is the query's, else
            red.
        images: int64 ``(N,)``, ascending: number of the example of each box.
        rows: Maximum number of queries, evenly spaced over the boxes.
        columns: Number of neighbours per query.

    Returns:
        uint8 RGB ``(3, rows * 64, (1 + columns) * 64)``; one grey row if there are no boxes.
    """
    known = (instances >= 0).nonzero().flatten()
    queries = known[torch.linspace(0, len(known) - 1, min(rows, len(known))).long()] if len(known) else known
    similar = (vectors[queries] @ vectors.T).masked_fill(images[queries, None] == images[None], -torch.inf)
    best = similar.topk(min(columns, len(vectors)), dim=1).indices
    first = torch.searchsorted(images.contiguous(), images.contiguous())  # the first box of the same image
    lines = []
    for query, most_similar in zip(queries.tolist(), best.tolist(), strict=True):
        cells = [_framed(examples[int(images[query])], query - int(first[query]), QUERY)]
        for box in most_similar:
            colour = RIGHT if instances[box] == instances[query] else WRONG
            cells.append(_framed(examples[int(images[box])], box - int(first[box]), colour))
        lines.append(F.pad(torch.cat(cells, dim=2), (0, SIDE * (1 + columns - len(cells)))))
    if not lines:
        return torch.full((3, SIDE, SIDE * (1 + columns)), QUERY[0], dtype=torch.uint8)
    return torch.cat(lines, dim=1)


def _framed(example: Example, number: int, colour: tuple[int, int, int]) -> Tensor:
    """A box of an example as uint8 ``(3, 64, 64)`` with a coloured frame."""
    photo = example.photo
    box = scale(as_tensor(example.regions.boxes[number : number + 1]), photo.scale)
    x1, y1, x2, y2 = windows(box, (photo.pixels.shape[1], photo.pixels.shape[2]))[0].tolist()
    inner = SIDE - 2 * FRAME
    picture = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, SIDE, SIDE).clone()
    picture[:, FRAME : FRAME + inner, FRAME : FRAME + inner] = resize(
        as_tensor(photo.pixels)[:, y1:y2, x1:x2], (inner, inner)
    )
    return picture


def boxes_sheet(detections: Sequence[tuple[Example, Regions]]) -> Tensor:
    """Photos side by side, with ground-truth boxes in green and detections on top in red.

    Args:
        detections: Examples with their detections; those of low score are not drawn.

    Returns:
        uint8 RGB ``(3, 320, 320 * number of photos)``; photos keep their aspect ratio on a grey background.
    """
    return torch.cat([_with_boxes(*of_photo) for of_photo in detections], dim=2)


def _with_boxes(example: Example, detected: Regions) -> Tensor:
    photo = example.photo
    factor = PHOTO_SIDE / max(photo.size)
    height, width = (max(1, round(s * factor)) for s in photo.size)
    picture = resize(as_tensor(photo.pixels), (height, width))
    for regions, colour in ((example.regions, RIGHT), (detected[detected.scores >= DRAWN_SCORE], WRONG)):
        boxes = scale(as_tensor(regions.boxes), (height / photo.size[0], width / photo.size[1]))
        drawable = boxes[(boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)]
        picture = draw_bounding_boxes(picture, drawable, colors=colour, width=2) if len(drawable) else picture
    sheet = torch.full((3, PHOTO_SIDE, PHOTO_SIDE), QUERY[0], dtype=torch.uint8)
    sheet[:, :height, :width] = picture
    return sheet
