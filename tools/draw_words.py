"""Draw how an index of visual words finds an object: local features, words, boxes, scores, and where it matched.

.. code-block:: console

    python tools/draw_words.py word_index photo.jpg --box 26,94,222,332 -o figure.jpg

The index has to keep the places of its features (``aggregator.positions=true``) and know where its photos are. The
photo that is drawn beside the query is the best one after spatial verification; the query itself is left out.
docs/detect_to_retrieve.md explains the panels and has the commands that made its figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from objemb.cli.boxes import parse_box
from objemb.images.decode import read_photo
from objemb.index.storage.visual_words import WordRows
from objemb.ops.opencv import agreeing
from objemb.ops.word_matching import matched_places, region_scores
from objemb.rerank.spatial_verification import SpatialVerification
from objemb.search.retrieval import Retrieval
from objemb.structures import Box, Match, Photo, Regions, VisualWords, WordPlaces
from objemb.structures.fields import points_inside
from objemb.types import Float32Array, Float64Array, Int64Array, Uint8Array
from objemb.visualize.plots import new_figure, save

if TYPE_CHECKING:
    from objemb.visualize.plots import Axes

QUERY, FOUND, OTHER = "#d55e00", "#0072b2", "#b0b0b0"
#: Words that are shown as pieces of both photos, the side of a piece in the figure, and half of it in the photos.
SHOWN_WORDS, PIECE, PIECE_HALF = 6, 64, 16
#: Pixels between two pictures side by side.
GAP = 12
#: Bars of the histogram; each stands for neighbouring words.
BINS = 128
#: Lines between two photos; more cannot be told apart.
MOST_LINES = 40


@dataclass(frozen=True)
class Comparison:
    """A query box and the photo that was found for it.

    Attributes:
        query, found: The photos.
        box: The query box.
        hit: The answer, after spatial verification.
        asked: The features of the query's photo.
        inside: Numbers of those in the query box.
        stored: The features of the photo that was found.
        agreeing: int64 ``(n, 2)``, numbers of features in ``asked`` and ``stored`` that are in one word and agree on
            where the object is.
        regions: The boxes of the photo that was found, the whole photo first.
        scores: One for each of them: how much it has of the query box.
        words: Number of words of the codebook.
    """

    query: Photo
    found: Photo
    box: Box
    hit: Match
    asked: WordPlaces
    inside: Int64Array
    stored: WordPlaces
    agreeing: Int64Array
    regions: Regions
    scores: Float64Array
    words: int


def main(argv: Sequence[str] | None = None) -> Comparison:
    """Search, draw and write the figure."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("index", metavar="INDEX", help="an index of visual words")
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="a photo of the object")
    parser.add_argument("--box", required=True, metavar="X1,Y1,X2,Y2", help="the object in PHOTO, in pixels")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="a picture, .jpg or .png")
    options = parser.parse_args(argv)
    compared = compare(Retrieval.open(options.index), options.photo, parse_box(options.box))
    figure, axes = new_figure(2, 3)
    draw_query(axes[0, 0], compared)
    draw_words(axes[0, 1], compared)
    draw_histogram(axes[0, 2], compared)
    draw_regions(axes[1, 0], compared)
    draw_scores(axes[1, 1], compared)
    draw_agreement(axes[1, 2], compared)
    save(figure, options.output)
    return compared


def compare(retrieval: Retrieval, photo: Path, box: Box) -> Comparison:
    """The best photo for a box, and what both have in common.

    Raises:
        ValueError: The index does not hold visual words with the places of their features, nothing was found, or the
            photo that was found has gone.
    """
    schema = retrieval.index.schema
    if not isinstance(schema, WordRows) or not schema.positions:
        raise ValueError(f"INDEX: expected visual words with the places of local features, found {schema}")
    verification = SpatialVerification()
    hits = retrieval.search(photo, [box], k=1, exclude=retrieval.ids_of(photo), rerank=[verification]).hits
    if not hits:
        raise ValueError(f"INDEX: expected a photo that shares words with the box {box}, found none")
    path = retrieval.photo_of(hits[0].image)
    if path is None:
        raise ValueError(f"{hits[0].image}: expected its photo as it was indexed, found none")
    query = cast(VisualWords, retrieval.model.query(photo, [box]))
    described = cast(VisualWords, retrieval.index.get(hits[0].image))
    asked, stored = cast(WordPlaces, query.places), cast(WordPlaces, described.places)
    inside = np.flatnonzero(points_inside(asked.points, np.array([box], np.float32))[0])
    pairs = matched_places(asked.inside(box), stored, query.dim, verification.similarity)
    pairs[:, 0] = inside[pairs[:, 0]]
    if len(pairs) >= verification.least:
        pairs = pairs[agreeing(asked.points[pairs[:, 0]], stored.points[pairs[:, 1]], verification.tolerance)[1]]
    return Comparison(
        query=read_photo(photo),
        found=read_photo(path),
        box=box,
        hit=hits[0],
        asked=asked,
        inside=inside,
        stored=stored,
        agreeing=pairs,
        regions=described.regions,
        scores=region_scores(query, 0, described, schema.match_kernel),
        words=schema.words,
    )


def draw_query(axis: Axes, compared: Comparison) -> None:
    """The query, its box, and the features inside and outside it."""
    inside = compared.asked.points[compared.inside]
    _photo(axis, compared.query, f"1. Query: {len(inside)} local features in the box")
    _points(axis, np.delete(compared.asked.points, compared.inside, axis=0), OTHER)
    _points(axis, inside, QUERY)
    _frame(axis, compared.box, QUERY, 3)


def draw_words(axis: Axes, compared: Comparison) -> None:
    """Pieces of both photos in one word each: of the query above, of the photo that was found below."""
    words, firsts = np.unique(compared.asked.words[compared.agreeing[:, 0]], return_index=True)
    shown = np.linspace(0, len(words) - 1, min(SHOWN_WORDS, len(words))).astype(int)
    sheet = np.full((2 * PIECE + GAP, max(1, len(shown)) * (PIECE + GAP) - GAP, 3), 255, np.uint8)
    for column, pair in enumerate(compared.agreeing[firsts[shown]]):
        left = column * (PIECE + GAP)
        sheet[:PIECE, left : left + PIECE] = _piece(compared.query, compared.asked.points[pair[0]])
        sheet[PIECE + GAP :, left : left + PIECE] = _piece(compared.found, compared.stored.points[pair[1]])
    axis.imshow(sheet)
    axis.set_xticks(PIECE / 2 + np.arange(len(shown)) * (PIECE + GAP), words[shown].tolist(), fontsize=8)
    axis.set_yticks([PIECE / 2, PIECE * 1.5 + GAP], ["query", "photo"], fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("number of the visual word")
    axis.set_title("2. Features of one visual word look alike", fontsize=11)


def draw_histogram(axis: Axes, compared: Comparison) -> None:
    """Features by word: of the query box above, of the photo that was found below, those of common words in colour."""
    asked, stored = compared.asked.words[compared.inside], compared.stored.words
    common = np.intersect1d(asked, stored)
    edges = np.linspace(0, compared.words, BINS + 1)
    for words, colour, sign in ((asked, QUERY, 1), (stored, FOUND, -1)):
        for counted, shade in ((words, OTHER), (words[np.isin(words, common)], colour)):
            axis.bar(edges[:-1], sign * np.histogram(counted, edges)[0], edges[1], align="edge", color=shade)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_yticks([])
    axis.set_xlabel("number of the visual word")
    axis.set_ylabel("features of the photo  |  of the box")
    axis.set_title(f"3. {len(common)} of {compared.words:,} words in common", fontsize=11)


def draw_regions(axis: Axes, compared: Comparison) -> None:
    """The photo that was found, with its boxes and features; the best box thick."""
    _photo(axis, compared.found, "4. The photo that was found, with its boxes")
    _points(axis, compared.stored.points, OTHER)
    best = int(compared.scores.argmax())
    for number, (x1, y1, x2, y2) in enumerate(compared.regions.boxes.tolist()):
        _frame(axis, (x1, y1, x2, y2), FOUND if number == best else "black", 3 if number == best else 1)
        if number:
            plate = {"color": "black", "pad": 1.5}
            axis.text(x1 + 4, y1 + 4, str(number), color="white", fontsize=9, va="top", bbox=plate)


def draw_scores(axis: Axes, compared: Comparison) -> None:
    """How much each region has of the query."""
    names = ["whole photo", *(f"box {number}" for number in range(1, len(compared.scores)))]
    colours = [OTHER] * len(names)
    colours[int(compared.scores.argmax())] = FOUND
    bars = axis.barh(names, compared.scores, color=colours)
    axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_title("5. Score of each region", fontsize=11)


def draw_agreement(axis: Axes, compared: Comparison) -> None:
    """Both photos side by side, with lines between features that agree, and the box that these cover."""
    query, found = _picture(compared.query), _picture(compared.found)
    left = query.shape[1] + GAP
    sheet = np.full((max(len(query), len(found)), left + found.shape[1], 3), 255, np.uint8)
    sheet[: len(query), : query.shape[1]] = query
    sheet[: len(found), left:] = found
    axis.imshow(sheet)
    axis.set_axis_off()
    for first, second in compared.agreeing[:: max(1, -(-len(compared.agreeing) // MOST_LINES))]:
        (x1, y1), (x2, y2) = compared.asked.points[first], compared.stored.points[second]
        axis.plot([x1, x2 + left], [y1, y2], color="#f0e442", linewidth=0.7)
    _frame(axis, compared.box, QUERY, 2)
    x1, y1, x2, y2 = compared.hit.box
    _frame(axis, (x1 + left, y1, x2 + left, y2), FOUND, 2)
    axis.set_title(f"6. Where: {len(compared.agreeing)} features agree", fontsize=11)


def _photo(axis: Axes, photo: Photo, title: str) -> None:
    axis.imshow(_picture(photo))
    axis.set_axis_off()
    axis.set_title(title, fontsize=11)


def _picture(photo: Photo) -> Uint8Array:
    """uint8 ``(height, width, 3)``; the photo was read in full, so that its pixels are those of points and boxes."""
    return photo.pixels.transpose(1, 2, 0)


def _points(axis: Axes, points: Float32Array, colour: str) -> None:
    axis.scatter(points[:, 0], points[:, 1], s=9, facecolors="none", edgecolors=colour, linewidths=0.8)


def _frame(axis: Axes, box: Box, colour: str, width: float) -> None:
    x1, y1, x2, y2 = box
    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, linewidth=width)


def _piece(photo: Photo, point: Float32Array) -> Uint8Array:
    """The surroundings of a point, uint8 ``(PIECE, PIECE, 3)``; at an edge the photo goes on with its last pixels."""
    steps = np.linspace(-PIECE_HALF, PIECE_HALF, PIECE, endpoint=False)
    columns = np.clip(point[0] + steps, 0, photo.size[1] - 1).astype(int)
    rows = np.clip(point[1] + steps, 0, photo.size[0] - 1).astype(int)
    return _picture(photo)[np.ix_(rows, columns)]


if __name__ == "__main__":
    main()
