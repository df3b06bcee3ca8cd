"""The photos of a search result as thumbnails, with boxes to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from objemb.checks import ObjembError
from objemb.images.decode import MAX_PIXELS
from objemb.images.inputs import ImageLike, as_photo
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


def colour_of(box: Box, result: SearchResult, view: int = 0) -> str:
    """The colour of a box of a view of the query; boxes are counted through all views."""
    boxes = result.views[view].boxes
    number = boxes.index(box) if box in boxes else 0
    return COLOURS[(number + sum(len(v.boxes) for v in result.views[:view])) % len(COLOURS)]


def view_frames(result: SearchResult, view: int) -> tuple[DrawnBox, ...]:
    """The boxes of a view of the query."""
    return tuple(DrawnBox(box, colour_of(box, result, view)) for box in result.views[view].boxes)


def hit_frames(hit: Match, result: SearchResult) -> tuple[DrawnBox, ...]:
    """Thin frames for the runners-up of a hit, and its matched box in the colour of the query box."""
    frames = [DrawnBox(r.box, colour_of(r.query_box, result, r.view), thin=True) for r in reversed(hit.runners_up)]
    return (*frames, DrawnBox(hit.box, colour_of(hit.query_box, result, hit.view)))


def view_pictures(
    result: SearchResult, images: Sequence[ImageLike | None], max_pixels: int = MAX_PIXELS
) -> list[Picture]:
    """The views of the query with their boxes; ``images`` are their photos, None for those that are not there."""
    return [
        _picture(
            view.image,
            image,
            view_frames(result, number),
            max_pixels,
        )
        for number, (view, image) in enumerate(zip(result.views, images, strict=True))
    ]


def hit_picture(hit: Match, path: Path | None, result: SearchResult, max_pixels: int = MAX_PIXELS) -> Picture:
    """A hit with its boxes."""
    return _picture(hit.image, path, hit_frames(hit, result), max_pixels)


def result_pictures(
    result: SearchResult,
    queries: Sequence[ImageLike | None],
    path_of: Callable[[str], Path | None],
    max_pixels: int = MAX_PIXELS,
) -> tuple[list[Picture], list[Picture]]:
    """The views of the query, whose photos are given, and all hits.

    ``path_of`` tells where the photo of an image id lies; photos of more than ``max_pixels`` are shown in grey.
    """
    hits = [hit_picture(hit, path_of(hit.image), result, max_pixels) for hit in result]
    return view_pictures(result, queries, max_pixels), hits


def thumbnail(
    name: str, image: ImageLike | None, frames: tuple[DrawnBox, ...], side: int, max_pixels: int = MAX_PIXELS
) -> Picture:
    """A photo of at most ``side`` pixels with boxes to draw, without close-ups; grey if it has more than
    ``max_pixels``."""
    photo = _read(image, side, max_pixels)
    if photo is None:
        return _missing(name, frames)
    return Picture(name, shrunk(_image(photo), side), photo.size, frames)


def _picture(name: str, path: ImageLike | None, frames: tuple[DrawnBox, ...], max_pixels: int) -> Picture:
    photo = _read(path, max_pixels=max_pixels)
    if photo is None:
        return _missing(name, frames)
    small = shrunk(_image(photo), THUMBNAIL_SIDE)
    height, width = photo.size
    frames = tuple(f for f in frames if f.box[0] <= width and f.box[1] <= height)
    close_ups = tuple((_close_up(photo, f.box), f.colour) for f in frames if not f.thin)
    return Picture(name, small, photo.size, frames, close_ups)


def _read(image: ImageLike | None, side: int | None = None, max_pixels: int = MAX_PIXELS) -> Photo | None:
    """The photo, or None if it is missing or can no longer be read."""
    try:
        return as_photo(image, side, max_pixels=max_pixels) if image is not None else None
    except (ObjembError, OSError):
        return None


def _image(photo: Photo) -> Image.Image:
    return Image.fromarray(photo.interleaved())


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


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image shrunk to at most ``side`` pixels on the longest side."""
    return image if max(image.size) <= side else _fitted(image, side)


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """The image resized to ``side`` pixels on the longest side."""
    scale = side / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
