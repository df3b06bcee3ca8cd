"""The data types that are passed between the stages.

All are immutable, validated on construction, and follow one convention: boxes are float32 ``(x1, y1, x2, y2)`` edges in
*EXIF-corrected original pixels* (a 640 x 480 photo spans ``0 <= x <= 640``); the first axis of an array is that of the
items; sizes are ``(height, width)``; region 0 of a described image is the whole image.
"""

from objemb.structures.descriptors import RegionDescriptors
from objemb.structures.fields import Box, Payload, Scalar, are_fractions
from objemb.structures.image_words import ImageWords
from objemb.structures.local_features import LocalFeatures, RegionFeatures
from objemb.structures.match_kernel import MatchKernel
from objemb.structures.photo import SIDEWAYS, Photo
from objemb.structures.regions import BOX_TOLERANCE, NO_LABEL, Regions
from objemb.structures.results import LazyHits, Match, QueryView, SearchResult
from objemb.structures.rows import ImageRows
from objemb.structures.words import Described, VisualWords, WordPlaces

__all__ = [
    "BOX_TOLERANCE",
    "NO_LABEL",
    "SIDEWAYS",
    "Box",
    "Described",
    "ImageRows",
    "ImageWords",
    "LazyHits",
    "LocalFeatures",
    "Match",
    "MatchKernel",
    "Payload",
    "Photo",
    "QueryView",
    "RegionDescriptors",
    "RegionFeatures",
    "Regions",
    "Scalar",
    "SearchResult",
    "VisualWords",
    "WordPlaces",
    "are_fractions",
]
