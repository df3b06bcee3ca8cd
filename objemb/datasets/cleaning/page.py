"""The report page of a cleaning: figures of the classes, and pairs of photos with the features that agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from objemb.datasets.cleaning.classes import CleanedClass, PairExample
from objemb.datasets.cleaning.pairs import match_photos
from objemb.datasets.cleaning.settings import CleaningSettings
from objemb.datasets.cleaning.store import FeatureStore
from objemb.images import SkippedImage, UnreadableImageError, read_photo
from objemb.types import Float32Array
from objemb.visualize.html import data_uri, html_page, html_text
from objemb.visualize.pictures import COLOURS, short

#: Classes of which pairs are shown, evenly spread from the one with the smallest share of kept photos to the largest.
SHOWN_CLASSES = 8
#: Longest side of a photo on the page, the space between two, and the most features of a pair that are drawn.
SIDE, GAP, DRAWN = 320, 8, 60
#: Unreadable photos that are named.
NAMED = 20
OWN_STYLE = """
main { max-width: 90rem; display: grid; gap: 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .7rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
.pairs { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.pairs img { width: 100%; height: auto; display: block; }
"""


def cleaning_page(
    classes: Sequence[CleanedClass], skipped: Sequence[SkippedImage], store: FeatureStore, settings: CleaningSettings
) -> str:
    """The page as HTML. It contains file names but no folders, because pages may be shared.

    Args:
        classes: The classes after cleaning.
        skipped: Photos that could not be read.
        store: Features of the photos.
        settings: How they were matched.
    """
    photos, kept = sum(len(c.photos) for c in classes), sum(c.kept for c in classes)
    rows = "\n".join(map(_row, classes))
    examples = "\n".join(_examples(c, store, settings) for c in _shown(classes))
    body = f"""<h1>{kept} of {photos} photos kept, {len(skipped)} unreadable</h1>
<p class="soft">A pair of photos counts if at least {settings.least} local features agree on one affine map; the
{"largest connected group" if settings.smallest_view is None else f"groups of {settings.smallest_view} photos and more"}
of each class {"is" if settings.smallest_view is None else "are"} kept.</p>
<table>
<tr><th>class</th><th>photos</th><th>kept</th><th>dropped</th><th>views</th><th>pairs matched</th>
<th>pairs that count</th></tr>
{rows}
</table>
{_unreadable(skipped)}
{examples}"""
    return html_page(f"{kept} of {photos} photos kept", body, OWN_STYLE)


def _row(of_class: CleanedClass) -> str:
    views = ", ".join(str(len(view)) for view in of_class.views) or "none"
    cells = (
        len(of_class.photos),
        of_class.kept,
        len(of_class.photos) - of_class.kept,
        views,
        of_class.tried,
        of_class.edges,
    )
    return f"<tr><td>{html_text(of_class.name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _unreadable(skipped: Sequence[SkippedImage]) -> str:
    if not skipped:
        return ""
    lines = "".join(f"<dt>{html_text(short(s.path))}</dt><dd>{html_text(s.reason)}</dd>" for s in skipped[:NAMED])
    more = f"<p>and {len(skipped) - NAMED} more, in dropped.csv</p>" if len(skipped) > NAMED else ""
    return f"<section><h2>Unreadable</h2><dl>{lines}</dl>{more}</section>"


def _shown(classes: Sequence[CleanedClass]) -> list[CleanedClass]:
    ranked = sorted((c for c in classes if len(c.photos) > 1), key=lambda c: c.kept / len(c.photos))
    places = np.linspace(0, len(ranked) - 1, min(SHOWN_CLASSES, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def _examples(of_class: CleanedClass, store: FeatureStore, settings: CleaningSettings) -> str:
    captions = (
        ("kept: the pair with the most features that agree", of_class.strongest),
        ("kept: the pair with the fewest", of_class.weakest),
        ("dropped, with the photo that is most like it", of_class.dropped),
    )
    cards = "".join(
        _card(caption, example, of_class, store, settings) for caption, example in captions if example is not None
    )
    return f'<section><h2>{html_text(of_class.name)}</h2><div class="pairs">{cards}</div></section>' if cards else ""


def _card(
    caption: str, example: PairExample, of_class: CleanedClass, store: FeatureStore, settings: CleaningSettings
) -> str:
    photos = [of_class.photos[n] for n in (example.first, example.second)]
    names = " and ".join(html_text(short(photo.path)) for photo in photos)
    try:
        agreement = match_photos(store.features(photos[0]), store.features(photos[1]), settings)
        picture = pair_picture([photo.path for photo in photos], (agreement.first, agreement.second))
    except UnreadableImageError:
        return ""  # removed since it was matched
    return f"""<div class="card"><img src="{data_uri(picture)}" alt="{names}">
<div class="text"><div class="name">{example.inliers} features agree</div>
<div class="soft">{caption}: {names}</div></div></div>"""


def pair_picture(paths: Sequence[str], points: tuple[Float32Array, Float32Array]) -> Image.Image:
    """Two photos side by side, with lines between the features that agree.

    Args:
        paths: Those of the two photos.
        points: float32 ``(n, 2)`` of each photo, x and y in original pixels.

    Raises:
        UnreadableImageError: A photo cannot be read.
    """
    photos = [read_photo(path, side=SIDE) for path in paths]
    shares = [SIDE / max(photo.size) for photo in photos]
    images = [
        Image.fromarray(photo.interleaved()).resize(
            (max(1, round(photo.size[1] * share)), max(1, round(photo.size[0] * share))), Image.Resampling.LANCZOS
        )
        for photo, share in zip(photos, shares, strict=True)
    ]
    left, right = images
    sheet = Image.new("RGB", (left.width + GAP + right.width, max(left.height, right.height)), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + GAP, 0))
    pen = ImageDraw.Draw(sheet)
    chosen = np.linspace(0, len(points[0]) - 1, min(DRAWN, len(points[0]))).round().astype(int)
    for number, row in enumerate(chosen.tolist()):
        x1, y1 = (points[0][row] * shares[0]).tolist()
        x2, y2 = (points[1][row] * shares[1]).tolist()
        pen.line((x1, y1, x2 + left.width + GAP, y2), fill=COLOURS[number % len(COLOURS)], width=1)
        for x, y in ((x1, y1), (x2 + left.width + GAP, y2)):
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), outline=COLOURS[number % len(COLOURS)])
    return sheet
