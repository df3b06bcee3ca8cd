"""A search result as one picture: the query on the left, the hits in rows beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from objemb.structures import SearchResult
from objemb.text import score_text
from objemb.visualize.pictures import Picture, short

BACKGROUND, INK, SOFT = (250, 250, 248), (28, 28, 26), (98, 98, 93)
QUERY_SIDE, CELL_WIDTH, CELL_HEIGHT, CAPTION, GAP = 480, 300, 260, 44, 16
MAX_COLUMNS = 5


def contact_sheet(result: SearchResult, queries: Sequence[Picture], hits: Sequence[Picture]) -> Image.Image:
    """An RGB image for a message or a slide.

    Args:
        result: The result.
        queries: The views of the query with their boxes, one in most cases.
        hits: A picture of each hit, in order.
    """
    columns = max(1, min(MAX_COLUMNS, math.ceil(math.sqrt(len(hits) * 1.5))))
    rows = math.ceil(len(hits) / columns)
    left = QUERY_SIDE + 2 * GAP
    width = left + columns * (CELL_WIDTH + GAP) if hits else left
    side = QUERY_SIDE if len(queries) == 1 else CELL_HEIGHT
    height = max(len(queries) * (side + CAPTION + GAP), rows * (CELL_HEIGHT + CAPTION + GAP)) + GAP
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    for number, query in enumerate(queries):
        corner = (GAP, GAP + number * (side + CAPTION + GAP))
        title = f"{short(query.name)}, {len(hits)} found" if number == 0 else short(query.name)
        _place(sheet, query, corner, (QUERY_SIDE, side), title, f"score: {result.scale}" if number == 0 else "")
    for number, (hit, picture) in enumerate(zip(result, hits, strict=True)):
        row, column = divmod(number, columns)
        corner = (left + column * (CELL_WIDTH + GAP), GAP + row * (CELL_HEIGHT + CAPTION + GAP))
        facts = f"{number + 1}.  {score_text(hit.score)}" + (f"  {hit.label}" if hit.label is not None else "")
        _place(sheet, picture, corner, (CELL_WIDTH, CELL_HEIGHT), picture.name, facts)
    return sheet


def _place(
    sheet: Image.Image, picture: Picture, corner: tuple[int, int], room: tuple[int, int], title: str, facts: str
) -> None:
    """Draw a picture with its boxes, centred in its space, and two lines of text below."""
    scale = min(room[0] / picture.image.width, room[1] / picture.image.height)
    width, height = (max(1, round(side * scale)) for side in picture.image.size)
    image = picture.image.resize((width, height), Image.Resampling.LANCZOS)
    draw_frames(image, picture)
    sheet.paste(image, (corner[0] + (room[0] - width) // 2, corner[1] + (room[1] - height) // 2))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    top = corner[1] + room[1] + 5
    pen.text((corner[0], top), _clipped(title, pen, font, room[0]), INK, font)
    pen.text((corner[0], top + 19), _clipped(facts, pen, font, room[0]), SOFT, font)


def draw_frames(image: Image.Image, picture: Picture) -> None:
    """Draw the boxes of a picture into an image of it, of any size."""
    pen = ImageDraw.Draw(image)
    height, width = picture.size
    scale_x, scale_y = image.width / width, image.height / height
    for frame in (f for f in picture.frames if not picture.is_whole(f.box)):
        x1, x2 = (min(round(x * scale_x), image.width - 1) for x in frame.box[::2])
        y1, y2 = (min(round(y * scale_y), image.height - 1) for y in frame.box[1::2])
        if not frame.thin:
            pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=5)
        pen.rectangle((x1, y1, x2, y2), outline=frame.colour, width=1 if frame.thin else 3)


def _clipped(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    """One printable line; of a long path the *end* is kept, because it distinguishes photos."""
    text = "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode())
    while len(text) > 8 and pen.textlength(text, font) > room:
        text = "..." + text[4 + len(text) // 20 :]
    return text
