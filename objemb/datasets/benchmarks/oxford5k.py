"""Oxford Buildings: Philbin et al., Object retrieval with large vocabularies and fast spatial matching, CVPR 2007."""

from __future__ import annotations

from objemb.datasets.benchmarks._buildings import Buildings
from objemb.registry import plugin


@plugin
class Oxford5k(Buildings):
    """5,062 photos of Oxford, 55 queries for 11 landmarks.

    Args:
        queries: ``crop`` searches for the box of a query, as the protocol says; ``full`` for its whole photo.
    """

    layout = """\
Expected below the folder:
  jpg/                 the photos (oxbuild_images), in this folder or in folders below it
  *_query.txt, *_good.txt, *_ok.txt, *_junk.txt
                       the ground truth (gt_files), together in any folder but jpg/;
                       or gnd_oxford5k.pkl, as programs of the field pass it on
Photos and ground truth are on the page "The Oxford Buildings Dataset" of the Visual Geometry Group, Oxford."""
    pickle = "gnd_oxford5k.pkl"
    counts = (5062, 5063)  # published lists differ by one
