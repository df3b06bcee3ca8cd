"""Draw how an index of visual words finds an object: local features, words, boxes, scores, and the matched region.

.. code-block:: console

    python tools/draw_words.py word_index photo.jpg --box 26,94,222,332 -o figure.jpg

The index has to store the positions of its features (``aggregator.positions=true``) and the paths of its photos. The
photo that is drawn beside the query is the best match after spatial verification, other than the query itself.
docs/detect_to_retrieve.md explains the panels and has the commands that made its figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

import objemb
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

QUERY, MATCH, OTHER = "#d55e00", "#0072b2", "#b0b0b0"
#: Number of words that are shown as patches of both photos, the side of a patch in the figure, and half of its side in
#: the photos, in pixels.
SHOWN_WORDS, PATCH, PATCH_HALF = 6, 64, 16
#: Pixels between two pictures side by side.
GAP = 12
#: Bars of the histogram; each counts a range of consecutive words.
BINS = 128
#: Most lines between two photos; more could not be told apart.
MAX_LINES = 40


@dataclass(frozen=True)
class Comparison:
    """A query box and the best photo for it.

    Attributes:
        query: The photo of the query.
        match: The photo that matched best.
        box: The query box.
        hit: The search result for ``match``, after spatial verification.
        query_features: The features of the query's photo.
        inside: int64 ``(m,)``, the indices of those in the query box.
        match_features: The features of the matching photo.
        agreeing: int64 ``(n, 2)``, indices of features of query and match that share a word and agree on the
            position of the object.
        regions: The regions of the matching photo, the whole photo first.
        scores: float64, the similarity of each region to the query box.
        words: The number of words of the codebook.
    """

    query: Photo
    match: Photo
    box: Box
    hit: Match
    query_features: WordPlaces
    inside: Int64Array
    match_features: WordPlaces
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
    compared = compare(objemb.open(options.index), options.photo, parse_box(options.box))
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
    """The best photo for a box, compared with the query.

    Raises:
        ValueError: The index does not hold visual words with the positions of their features, no photo matches, or the
            file of the photo that matches is missing or has changed.
    """
    schema = retrieval.index.schema
    if not isinstance(schema, WordRows) or not schema.positions:
        raise ValueError(f"INDEX: expected visual words with the positions of local features, found {schema}")
    verification = SpatialVerification()
    hits = retrieval.search(photo, [box], k=1, exclude=retrieval.ids_of(photo), rerank=[verification]).hits
    if not hits:
        raise ValueError(f"INDEX: expected a photo that shares words with the box {box}, found none")
    path = retrieval.photo_of(hits[0].image)
    if path is None:
        raise ValueError(f"{hits[0].image}: expected the photo that was indexed, found none")
    query = cast(VisualWords, retrieval.model.query(photo, [box]))
    described = cast(VisualWords, retrieval.index.get(hits[0].image))
    ours, theirs = cast(WordPlaces, query.places), cast(WordPlaces, described.places)
    inside = np.flatnonzero(points_inside(ours.points, np.array([box], np.float32))[0])
    pairs = matched_places(ours.inside(box), theirs, query.dim, verification.similarity)
    pairs[:, 0] = inside[pairs[:, 0]]
    if len(pairs) >= verification.least:
        pairs = pairs[agreeing(ours.points[pairs[:, 0]], theirs.points[pairs[:, 1]], verification.tolerance)[1]]
    return Comparison(
        query=read_photo(photo),
        match=read_photo(path),
        box=box,
        hit=hits[0],
        query_features=ours,
        inside=inside,
        match_features=theirs,
        agreeing=pairs,
        regions=described.regions,
        scores=region_scores(query, 0, described, schema.match_kernel),
        words=schema.words,
    )


def draw_query(axis: Axes, compared: Comparison) -> None:
    """The query, its box, and the features inside and outside it."""
    inside = compared.query_features.points[compared.inside]
    _photo(axis, compared.query, f"1. Query: {len(inside)} local features in the box")
    _points(axis, np.delete(compared.query_features.points, compared.inside, axis=0), OTHER)
    _points(axis, inside, QUERY)
    _frame(axis, compared.box, QUERY, 3)


def draw_words(axis: Axes, compared: Comparison) -> None:
    """Patches around features of the same word: from the query above, from the matching photo below."""
    words, firsts = np.unique(compared.query_features.words[compared.agreeing[:, 0]], return_index=True)
    shown = np.linspace(0, len(words) - 1, min(SHOWN_WORDS, len(words))).astype(int)
    sheet = np.full((2 * PATCH + GAP, max(1, len(shown)) * (PATCH + GAP) - GAP, 3), 255, np.uint8)
    for column, pair in enumerate(compared.agreeing[firsts[shown]]):
        left = column * (PATCH + GAP)
        sheet[:PATCH, left : left + PATCH] = _patch(compared.query, compared.query_features.points[pair[0]])
        sheet[PATCH + GAP :, left : left + PATCH] = _patch(compared.match, compared.match_features.points[pair[1]])
    axis.imshow(sheet)
    axis.set_xticks(PATCH / 2 + np.arange(len(shown)) * (PATCH + GAP), words[shown].tolist(), fontsize=8)
    axis.set_yticks([PATCH / 2, PATCH * 1.5 + GAP], ["query", "photo"], fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("number of the visual word")
    axis.set_title("2. Features of one visual word look alike", fontsize=11)


def draw_histogram(axis: Axes, compared: Comparison) -> None:
    """Features by word: of the query box upwards, of the matching photo downwards, those of common words in colour."""
    ours, theirs = compared.query_features.words[compared.inside], compared.match_features.words
    common = np.intersect1d(ours, theirs)
    edges = np.linspace(0, compared.words, BINS + 1)
    for words, colour, sign in ((ours, QUERY, 1), (theirs, MATCH, -1)):
        for counted, shade in ((words, OTHER), (words[np.isin(words, common)], colour)):
            axis.bar(edges[:-1], sign * np.histogram(counted, edges)[0], edges[1], align="edge", color=shade)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_yticks([])
    axis.set_xlabel("number of the visual word")
    axis.set_ylabel("features of the photo  |  of the box")
    axis.set_title(f"3. {len(common)} of {compared.words:,} words in common", fontsize=11)


def draw_regions(axis: Axes, compared: Comparison) -> None:
    """The matching photo with its boxes and features; the best box is drawn with a thick line."""
    _photo(axis, compared.match, "4. The matching photo, with its boxes")
    _points(axis, compared.match_features.points, OTHER)
    best = int(compared.scores.argmax())
    for number, (x1, y1, x2, y2) in enumerate(compared.regions.boxes.tolist()):
        _frame(axis, (x1, y1, x2, y2), MATCH if number == best else "black", 3 if number == best else 1)
        if number:
            plate = {"color": "black", "pad": 1.5}
            axis.text(x1 + 4, y1 + 4, str(number), color="white", fontsize=9, va="top", bbox=plate)


def draw_scores(axis: Axes, compared: Comparison) -> None:
    """The score of each region."""
    names = ["whole photo", *(f"box {number}" for number in range(1, len(compared.scores)))]
    colours = [OTHER] * len(names)
    colours[int(compared.scores.argmax())] = MATCH
    bars = axis.barh(names, compared.scores, color=colours)
    axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_title("5. Score of each region", fontsize=11)


def draw_agreement(axis: Axes, compared: Comparison) -> None:
    """Both photos side by side, with lines between features that agree, and the box around these features."""
    query, match = _picture(compared.query), _picture(compared.match)
    left = query.shape[1] + GAP
    sheet = np.full((max(len(query), len(match)), left + match.shape[1], 3), 255, np.uint8)
    sheet[: len(query), : query.shape[1]] = query
    sheet[: len(match), left:] = match
    axis.imshow(sheet)
    axis.set_axis_off()
    for first, second in compared.agreeing[:: max(1, -(-len(compared.agreeing) // MAX_LINES))]:
        (x1, y1), (x2, y2) = compared.query_features.points[first], compared.match_features.points[second]
        axis.plot([x1, x2 + left], [y1, y2], color="#f0e442", linewidth=0.7)
    _frame(axis, compared.box, QUERY, 2)
    x1, y1, x2, y2 = compared.hit.box
    _frame(axis, (x1 + left, y1, x2 + left, y2), MATCH, 2)
    axis.set_title(f"6. Where: {len(compared.agreeing)} features agree", fontsize=11)


def _photo(axis: Axes, photo: Photo, title: str) -> None:
    axis.imshow(_picture(photo))
    axis.set_axis_off()
    axis.set_title(title, fontsize=11)


def _picture(photo: Photo) -> Uint8Array:
    """uint8 ``(height, width, 3)``. The photo was read at full size, so points and boxes are in its pixels."""
    return photo.pixels.transpose(1, 2, 0)


def _points(axis: Axes, points: Float32Array, colour: str) -> None:
    axis.scatter(points[:, 0], points[:, 1], s=9, facecolors="none", edgecolors=colour, linewidths=0.8)


def _frame(axis: Axes, box: Box, colour: str, width: float) -> None:
    x1, y1, x2, y2 = box
    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, linewidth=width)


def _patch(photo: Photo, point: Float32Array) -> Uint8Array:
    """The surroundings of a point, uint8 ``(PATCH, PATCH, 3)``; beyond an edge the last pixels are repeated."""
    steps = np.linspace(-PATCH_HALF, PATCH_HALF, PATCH, endpoint=False)
    columns = np.clip(point[0] + steps, 0, photo.size[1] - 1).astype(int)
    rows = np.clip(point[1] + steps, 0, photo.size[0] - 1).astype(int)
    return _picture(photo)[np.ix_(rows, columns)]


if __name__ == "__main__":
    main()
