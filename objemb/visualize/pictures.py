"""The photos of a search result as thumbnails, with boxes to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from objemb.checks import ObjembError
from objemb.images.decode import MAX_PIXELS, read_photo
from objemb.structures import Box, Match, Photo, SearchResult

#: A colour for each query box, distinguishable by colour-blind people and on photos (Okabe and Ito).
COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2")
GREY = (150, 150, 150)
THUMBNAIL_SIDE = 640
CLOSE_UP_SIDE = 160
#: Margin of a close-up around the box, as a share of its sides.
CLOSE_UP_MARGIN = 0.08


@dataclass(frozen=True)
class DrawnBox:
    """A box to draw: edges in original pixels, a colour, and whether it is thin, for runners-up."""

    box: Box
    colour: str
    thin: bool = False


@dataclass(frozen=True)
class Picture:
    """A photo ready to be shown.

    Attributes:
        name: The id of the image.
        image: The whole photo, at most ``THUMBNAIL_SIDE`` pixels; grey if the file is missing.
        size: ``(height, width)`` of the original, the frame of the boxes.
        frames: Boxes to draw, the important ones last.
        close_ups: Crops of the main boxes, each with its colour.
        found: Whether the file could be read.
    """

    name: str
    image: Image.Image
    size: tuple[int, int]
    frames: tuple[DrawnBox, ...] = ()
    close_ups: tuple[tuple[Image.Image, str], ...] = ()
    found: bool = True

    def is_whole(self, box: Box) -> bool:
        """Whether a box is the whole photo; False if the photo could not be opened."""
        height, width = self.size
        return self.found and all(abs(a - b) < 0.5 for a, b in zip(box, (0, 0, width, height), strict=True))


def short(name: str) -> str:
    """The last part of a name that may be a path, because pages and sheets may be shared."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def colour_of(box: Box, query_boxes: Sequence[Box]) -> str:
    """The colour of a query box."""
    number = query_boxes.index(box) if box in query_boxes else 0
    return COLOURS[number % len(COLOURS)]


def query_picture(result: SearchResult, path: Path | None, max_pixels: int = MAX_PIXELS) -> Picture:
    """The query with its boxes."""
    frames = tuple(DrawnBox(box, colour_of(box, result.query_boxes)) for box in result.query_boxes)
    return _picture(result.query_image, path, frames, max_pixels)


def hit_picture(hit: Match, path: Path | None, query_boxes: Sequence[Box], max_pixels: int = MAX_PIXELS) -> Picture:
    """A hit with its matched box in the colour of the query box, and thin frames for the runners-up."""
    frames = [DrawnBox(r.box, colour_of(r.query_box, query_boxes), thin=True) for r in reversed(hit.runners_up)]
    return _picture(hit.image, path, (*frames, DrawnBox(hit.box, colour_of(hit.query_box, query_boxes))), max_pixels)


def result_pictures(
    result: SearchResult,
    query: Path | None,
    path_of: Callable[[str], Path | None],
    max_pixels: int = MAX_PIXELS,
) -> tuple[Picture, list[Picture]]:
    """Pictures of the query and of all hits; ``path_of`` gives the path of an image's photo. Photos of more than
    ``max_pixels`` are grey."""
    hits = [hit_picture(hit, path_of(hit.image), result.query_boxes, max_pixels) for hit in result]
    return query_picture(result, query, max_pixels), hits


def thumbnail(name: str, path: Path | None, frames: tuple[DrawnBox, ...], side: int) -> Picture:
    """A photo of at most ``side`` pixels with boxes to draw, without close-ups."""
    photo = _read(path, side)
    if photo is None:
        return _missing(name, frames)
    return Picture(name, _shrunk(_image(photo), side), photo.size, frames)


def _picture(name: str, path: Path | None, frames: tuple[DrawnBox, ...], max_pixels: int) -> Picture:
    photo = _read(path, max_pixels=max_pixels)
    if photo is None:
        return _missing(name, frames)
    small = _shrunk(_image(photo), THUMBNAIL_SIDE)
    height, width = photo.size
    frames = tuple(f for f in frames if f.box[0] <= width and f.box[1] <= height)
    close_ups = tuple((_close_up(photo, f.box), f.colour) for f in frames if not f.thin)
    return Picture(name, small, photo.size, frames, close_ups)


def _read(path: Path | None, side: int | None = None, max_pixels: int = MAX_PIXELS) -> Photo | None:
    """The photo, or None if it is missing or can no longer be read."""
    try:
        return read_photo(path, side=side, max_pixels=max_pixels) if path is not None else None
    except (ObjembError, OSError):
        return None


def _image(photo: Photo) -> Image.Image:
    return Image.fromarray(photo.pixels.transpose(1, 2, 0))


def _missing(name: str, frames: Sequence[DrawnBox]) -> Picture:
    """A grey placeholder just large enough for the boxes."""
    width = max((f.box[2] for f in frames), default=4.0)
    height = max((f.box[3] for f in frames), default=3.0)
    size = (max(1, round(height)), max(1, round(width)))
    scale = min(1.0, THUMBNAIL_SIDE / max(size))
    grey = Image.new("RGB", (max(1, round(size[1] * scale)), max(1, round(size[0] * scale))), GREY)
    return Picture(name, grey, size, tuple(frames), found=False)


def _close_up(photo: Photo, box: Box) -> Image.Image:
    """The pixels of a box with a margin."""
    scale_y, scale_x = photo.scale
    margin_x, margin_y = (box[2] - box[0]) * CLOSE_UP_MARGIN, (box[3] - box[1]) * CLOSE_UP_MARGIN
    height, width = photo.pixels.shape[1:]
    left = min(max(0, int((box[0] - margin_x) * scale_x)), width - 1)
    top = min(max(0, int((box[1] - margin_y) * scale_y)), height - 1)
    right = min(max(left + 1, round((box[2] + margin_x) * scale_x)), width)
    bottom = min(max(top + 1, round((box[3] + margin_y) * scale_y)), height)
    cut = photo.pixels[:, top:bottom, left:right].transpose(1, 2, 0)
    return _fitted(Image.fromarray(cut), CLOSE_UP_SIDE)


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image shrunk to at most ``side`` pixels on the longest side."""
    return image if max(image.size) <= side else _fitted(image, side)


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """The image resized to ``side`` pixels on the longest side."""
    scale = side / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
