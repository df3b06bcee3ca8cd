"""Paris: Philbin et al., Lost in quantization, CVPR 2008."""

from __future__ import annotations

from objemb.datasets.benchmarks._buildings import Buildings
from objemb.registry import plugin

#: Damaged files, which all published figures leave out: the list "corrupt.txt" from the page of the dataset, without
#: suffixes.
CORRUPT = frozenset(
    {
        "paris_louvre_000136",
        "paris_louvre_000146",
        "paris_moulinrouge_000422",
        "paris_museedorsay_001059",
        "paris_notredame_000188",
        "paris_pantheon_000284",
        "paris_pantheon_000960",
        "paris_pantheon_000974",
        "paris_pompidou_000195",
        "paris_pompidou_000196",
        "paris_pompidou_000201",
        "paris_pompidou_000467",
        "paris_pompidou_000640",
        "paris_sacrecoeur_000299",
        "paris_sacrecoeur_000330",
        "paris_sacrecoeur_000353",
        "paris_triomphe_000662",
        "paris_triomphe_000833",
        "paris_triomphe_000863",
        "paris_triomphe_000867",
    }
)


@plugin
class Paris6k(Buildings):
    """6,412 photos of Paris, of which 20 are damaged and left out, 55 queries for 11 landmarks.

    Args:
        queries: ``crop`` searches for the box of a query, as the protocol says; ``full`` for its whole photo.
    """

    layout = """\
Expected below the folder:
  jpg/                 the photos (paris_1 and paris_2), in this folder or in folders below it;
                       20 of them are damaged and left out
  *_query.txt, *_good.txt, *_ok.txt, *_junk.txt
                       the ground truth (paris_120310), together in any folder but jpg/;
                       or gnd_paris6k.pkl, as programs of the field pass it on
Photos and ground truth are on the page "The Paris Dataset" of the Visual Geometry Group, Oxford."""
    pickle = "gnd_paris6k.pkl"
    counts = (6392,)
    left_out = CORRUPT
