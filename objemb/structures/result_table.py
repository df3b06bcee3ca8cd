"""A search result as a table of Arrow or pandas.

The columns of a hit, in the order of the ranks:

===========================================  ===================================================================
``query``                                    text: the photo of the query, so that tables of several can be joined
``rank``                                     int32, from 1
``image``                                    text: the id of the photo
``score``                                    float64
``p_false``                                  float64 or null: see :class:`~objemb.structures.Match`
``x1``, ``y1``, ``x2``, ``y2``               float32: the matched box, in original pixels of the photo
``label``                                    text or null: the class of the box
``view``                                     int32: the number of the view of the query that matched
``query_x1`` ... ``query_y2``                float32: the box of the query, in original pixels of that view
``metadata.NAME``                            a column of metadata; numbers, booleans or, for mixed values, text
===========================================  ===================================================================

Half characters (of file names that are no UTF-8), which Arrow does not hold, are written as ``\\udc80``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from objemb.structures.fields import Box, Scalar

if TYPE_CHECKING:
    import pyarrow as pa
    from pandas import DataFrame as DataFrame

    from objemb.structures.results import SearchResult

#: What comes before the name of a metadata column, as in filters.
METADATA_PREFIX = "metadata."
EDGES = ("x1", "y1", "x2", "y2")


def as_table(result: SearchResult) -> pa.Table:
    """The hits of a result as a table; its columns are those of this module."""
    import pyarrow as pa

    hits = result.hits
    names = dict.fromkeys(name for hit in hits for name in hit.metadata)
    columns: dict[str, pa.Array] = {
        "query": pa.array([_text(result.views[hit.view].image) for hit in hits], pa.string()),
        "rank": pa.array(range(1, len(hits) + 1), pa.int32()),
        "image": pa.array([_text(hit.image) for hit in hits], pa.string()),
        "score": pa.array([hit.score for hit in hits], pa.float64()),
        "p_false": pa.array([hit.p_false for hit in hits], pa.float64()),
        **_edges("", [hit.box for hit in hits]),
        "label": pa.array([None if hit.label is None else _text(hit.label) for hit in hits], pa.string()),
        "view": pa.array([hit.view for hit in hits], pa.int32()),
        **_edges("query_", [hit.query_box for hit in hits]),
        **{_text(METADATA_PREFIX + name): _values([hit.metadata.get(name) for hit in hits]) for name in names},
    }
    return pa.table(columns)


def as_data_frame(result: SearchResult) -> DataFrame:
    """The same as a data frame of pandas.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas  # noqa: F401  # Arrow needs it
    except ImportError as error:
        raise ImportError("to_pandas: expected pandas, found none; pip install 'objemb[pandas]'") from error
    return as_table(result).to_pandas()


def _edges(prefix: str, boxes: Sequence[Box]) -> dict[str, pa.Array]:
    import pyarrow as pa

    return {prefix + edge: pa.array([box[place] for box in boxes], pa.float32()) for place, edge in enumerate(EDGES)}


def _values(values: Sequence[Scalar]) -> pa.Array:
    """A column of one type; values of several types become texts."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    try:
        if str not in kinds:
            return pa.array(values)
    except (pa.ArrowException, OverflowError):  # booleans beside numbers, or numbers of more than 64 bits
        pass
    texts = [None if v is None else _text(v if isinstance(v, str) else json.dumps(v)) for v in values]
    return pa.array(texts, pa.string())


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
