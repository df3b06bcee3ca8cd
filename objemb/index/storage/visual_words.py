"""Rows of visual words, stored as an inverted file: sorted by word, then by row, within a segment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from objemb import checks
from objemb.checks import ArtefactMismatchError, DamagedIndexError
from objemb.index.storage.schema import Columns, ColumnSorter, RowSchema
from objemb.index.storage.unit_vectors import DTYPES, MAX_DIM, check_unit
from objemb.index.words import BITS, WordBlock, WordQueries, check_lists, joined_queries, packed_in_64
from objemb.structures import Described, MatchKernel, Regions, Scalar, VisualWords, WordPlaces
from objemb.structures.described import IN_WORDS
from objemb.types import AnyArray, BoolArray, Buffer, Int64Array

#: What a row with words is: a whole image, or each of its regions.
ITEMS = ("images", "regions")
#: More words are no codebook.
MAX_WORDS = 1 << 30
#: Bytes of a segment that count as one of its regions or images: a segment of 65,536 has at most 128 MB.
BYTES_PER_ROW = 1 << 11
#: Postings that are written or checked at a time.
CHUNK_POSTINGS = 1 << 16
#: The largest coordinate of a place, which is a share of the photo's width or height.
LARGEST_SHARE = (1 << 16) - 1


@dataclass(frozen=True)
class WordRows(RowSchema):
    """Visual words with a residual each, see :class:`objemb.structures.VisualWords`; some rows have none.

    Weights belong to queries and are not stored. A segment has, beside the factor of each row (``scales``), the words
    that occur (``vocabulary``) with the place of the first posting of each (``starts``), and for each posting its row
    (``postings``) and residual (``residuals``). With positions there are the local features of each image (``places``:
    word, place in the photo in 16 bits a coordinate, signs of the residual) and their number (``placed``, that of the
    image's first row; 0 for its others).

    Attributes:
        dim: Length of the residuals.
        words: Number of words of the codebook.
        binary: Whether residuals are signs, a bit for each number.
        alpha: Exponent of the match kernel, see :class:`objemb.structures.MatchKernel`.
        tau: Its threshold.
        tau_inclusive: Whether a similarity of exactly ``tau`` counts.
        positions: Whether the places of local features are stored.
        items: "images" where row 0 of each image has its words, and its other rows are boxes without words; "regions"
            where every row has its own.
        dtype: Number type on disk of residuals that are not binary, "float16" or "float32".
    """

    name = "visual_words"
    columns = ("vocabulary", "starts", "postings", "residuals", "scales", "placed", "places")
    scale = "match kernel of visual words"
    engine = "inverted_file"
    most_rows = 1 << 16

    dim: int
    words: int
    binary: bool = True
    alpha: float = 3.0
    tau: float = 0.0
    tau_inclusive: bool = False
    positions: bool = False
    items: str = "images"
    dtype: str = "float16"

    def __post_init__(self) -> None:
        checks.between("dim", checks.whole("dim", self.dim), 1, MAX_DIM)
        checks.between("words", self.words, 2, MAX_WORDS)
        checks.one_of("items", self.items, ITEMS)
        checks.one_of("dtype", self.dtype, DTYPES)
        _ = self.match_kernel
        if not self.positions:
            object.__setattr__(self, "columns", self.columns[:5])

    @property
    def match_kernel(self) -> MatchKernel:
        """How two rows are compared."""
        return MatchKernel(self.words, self.binary, self.alpha, self.tau, self.tau_inclusive, self.positions)

    @property
    def kind(self) -> dict[str, object]:
        """As :attr:`RowSchema.kind`: all that is the same for all rows."""
        fields = asdict(self)
        del fields["dtype"]
        return {"schema": self.name, **fields}

    def check(self, name: str, described: Described) -> None:
        """As :meth:`RowSchema.check`."""
        self._checked(name, described)

    def encode(self, described: Described) -> Columns:
        """As :meth:`RowSchema.encode`."""
        words = self._checked(f"image {described.image!r}", described)
        if self.items == "images" and len(words.rows) and int(words.rows[-1]) > 0:
            raise ValueError(
                f"words of {words.image!r}: expected row 0 alone to have some, as in an index of images, "
                f"found those of row {words.rows[-1]}"
            )
        if not self.binary:
            check_unit(words.image, words.residuals.astype(np.float32, copy=False))
        columns: dict[str, AnyArray] = {
            "counts": np.bincount(words.rows, minlength=len(words)).astype(np.uint32),
            "words": words.words.astype(np.uint32),
            "residuals": self._residuals(words).astype(self._stored_residual, copy=False),
            "scales": words.scales.astype("<f4"),
        }
        if self.positions:
            if words.places is None:
                raise ValueError(f"words of {words.image!r}: expected the places of local features, found none")
            placed = np.zeros(len(words), "<u4")
            placed[:1] = len(words.places)
            columns["placed"] = placed
            columns["places"] = self._places(words.places, words.regions.size)[: None if len(words) else 0]
        return columns

    def described(
        self, image: str, regions: Regions, columns: Columns, rows: slice, metadata: Mapping[str, Scalar]
    ) -> VisualWords:
        """As :meth:`RowSchema.described`. Weights are 1, places those of the stored precision."""
        own = self.select(columns, rows.start, np.ones(rows.stop - rows.start, bool))
        counts = own["counts"].astype(np.int64)
        if self.binary:
            residuals = own["residuals"].view(np.uint8)[:, : -(-self.dim // 8)].copy()
        else:
            residuals = own["residuals"].astype(np.float32)
        return VisualWords(
            image,
            regions,
            self.dim,
            np.repeat(np.arange(len(counts)), counts),
            own["words"].astype(np.int32),
            residuals,
            np.ones(len(residuals), np.float32),
            own["scales"].astype(np.float32),
            self._as_places(own["places"], regions.size) if self.positions else None,
            metadata,
        )

    def sorter(self) -> WordSorter:
        """As :meth:`RowSchema.sorter`."""
        return WordSorter(self)

    def weight(self, rows: int, images: int, size: int) -> int:
        """As :meth:`RowSchema.weight`; a segment of many words for few rows counts by its bytes."""
        return max(rows + images, size // BYTES_PER_ROW)

    def check_sizes(self, rows: int, sizes: Mapping[str, int]) -> None:
        """As :meth:`RowSchema.check_sizes`."""
        words, postings = sizes["vocabulary"] // 4, sizes["postings"] // 4
        expected = {
            "vocabulary": 4 * words,
            "starts": 8 * (words + 1),
            "postings": 4 * postings,
            "residuals": postings * self._stored_residual.itemsize * self._width,
            "scales": 4 * rows,
        }
        if self.positions:
            record = self._place.itemsize
            expected |= {"placed": 4 * rows, "places": sizes["places"] // record * record}
        for name, size in expected.items():
            if sizes[name] != size:
                raise ValueError(f"{name}: expected {size} bytes for {rows} rows, found {sizes[name]}")

    def decode(self, content: Mapping[str, Buffer], rows: int) -> Columns:
        """As :meth:`RowSchema.decode`."""
        types = {"vocabulary": "<u4", "starts": "<i8", "postings": "<u4", "scales": "<f4", "placed": "<u4"}
        columns = {name: np.frombuffer(content[name], types[name]) for name in self.columns if name in types}
        residuals = np.frombuffer(content["residuals"], self._stored_residual)
        columns["residuals"] = residuals.reshape(len(columns["postings"]), self._width)
        if self.positions:
            columns["places"] = np.frombuffer(content["places"], self._place)
        return columns

    def select(self, columns: Columns, first: int, kept: BoolArray) -> Columns:
        """As :meth:`RowSchema.select`."""
        check_lists(columns["vocabulary"], columns["starts"], columns["postings"])
        postings = columns["postings"]
        here = np.flatnonzero((postings >= first) & (postings < first + len(kept)))
        here = here[kept[postings[here] - first]]
        rows = postings[here].astype(np.int64) - first
        here, rows = (part[np.argsort(rows, kind="stable")] for part in (here, rows))
        lists = np.searchsorted(columns["starts"], here, side="right") - 1
        selected = {
            "counts": np.bincount(rows, minlength=len(kept))[kept].astype(np.uint32),
            "words": columns["vocabulary"][lists],
            "residuals": columns["residuals"][here],
            "scales": columns["scales"][first : first + len(kept)][kept],
        }
        if self.positions:
            placed = columns["placed"]
            ends = np.cumsum(placed[: first + len(kept)], dtype=np.int64)
            begin = int(ends[first - 1]) if first else 0
            own = placed[first : first + len(kept)]
            places = columns["places"][begin : begin + int(own.sum(dtype=np.int64))]
            if len(places) != int(own.sum(dtype=np.int64)):
                raise DamagedIndexError(f"expected places of {int(own.sum())} local features, found {len(places)}")
            selected |= {"placed": own[kept], "places": places[np.repeat(kept, own)]}
        return selected

    def problems(self, columns: Columns, on_bytes: Callable[[int], None]) -> Iterator[str]:
        """As :meth:`RowSchema.problems`."""
        try:
            check_lists(columns["vocabulary"], columns["starts"], columns["postings"])
        except DamagedIndexError as error:
            yield str(error)
            return
        if len(columns["vocabulary"]) and int(columns["vocabulary"][-1]) >= self.words:
            yield f"expected words below {self.words}, found {int(columns['vocabulary'][-1])}"
        if not np.isfinite(columns["scales"]).all():
            yield "expected finite scales of rows, found others"
        first_of_word = np.zeros(len(columns["postings"]) + 1, bool)
        first_of_word[columns["starts"]] = True
        for start in range(0, len(columns["postings"]), CHUNK_POSTINGS):
            stop = start + CHUNK_POSTINGS
            rows = columns["postings"][start : stop + 1].astype(np.int64)  # and the next, to see whether it is larger
            if int(rows.max()) >= len(columns["scales"]):
                yield f"expected postings of rows below {len(columns['scales'])}, found {int(rows.max())}"
                return
            if (np.diff(rows) <= 0)[~first_of_word[start + 1 : start + len(rows)]].any():
                yield f"expected rows that rise within a word, found others after posting {start}"
                return
            residuals = columns["residuals"][start:stop]
            yield from self._residual_problems(residuals, start)
            on_bytes(4 * len(residuals) + residuals.nbytes)
        if self.positions:
            count = int(columns["placed"].sum(dtype=np.int64))
            if count != len(columns["places"]):
                yield f"expected the places of {count} local features, found {len(columns['places'])}"
            if len(columns["places"]) and int(columns["places"]["word"].max()) >= self.words:
                yield f"places: expected words below {self.words}, found {int(columns['places']['word'].max())}"

    def block(self, columns: Columns, images: Int64Array, alive: BoolArray | None) -> WordBlock:
        """As :meth:`RowSchema.block`."""
        lists = (columns[name] for name in ("vocabulary", "starts", "postings", "residuals", "scales"))
        vocabulary, starts, postings, residuals, scales = lists
        return WordBlock(
            self.dim,
            self.match_kernel,
            self.items == "images",
            vocabulary,
            starts,
            postings,
            residuals,
            scales,
            images,
            alive,
        )

    def queries(self, described: Sequence[Described]) -> WordQueries:
        """As :meth:`RowSchema.queries`."""
        empty = WordQueries(
            np.zeros(1, np.int64),
            np.zeros(0, np.int32),
            np.zeros((0, self._width), np.uint64 if self.binary else np.float32),
            np.zeros(0),
            np.zeros(0),
        )
        parts = [empty]
        for one in described:
            words = self._checked(f"query {one.image!r}", one)
            parts.append(
                WordQueries(
                    np.searchsorted(words.rows, np.arange(len(words) + 1)),
                    words.words,
                    self._residuals(words),
                    words.weights.astype(np.float64),
                    words.scales.astype(np.float64),
                )
            )
        return joined_queries(parts)

    def check_score(self, score: float, queries: WordQueries) -> None:
        """As :meth:`RowSchema.check_score`: scales have no bound, but are finite."""
        if math.isnan(score) or score == math.inf:
            raise DamagedIndexError(f"expected finite scores, found {score:g}")

    def _checked(self, name: str, described: Described) -> VisualWords:
        if not isinstance(described, VisualWords):
            kinds = IN_WORDS[VisualWords], IN_WORDS[type(described)]
            raise ArtefactMismatchError(f"{name}: expected {kinds[0]} for an index of {kinds[0]}, found {kinds[1]}")
        if described.dim != self.dim:
            raise ArtefactMismatchError(f"{name}: expected residuals of dimension {self.dim}, found {described.dim}")
        if described.binary != self.binary and len(described.words):
            forms = ("numbers", "signs")
            raise ArtefactMismatchError(
                f"{name}: expected residuals as {forms[self.binary]}, found {forms[described.binary]}"
            )
        if len(described.words) and int(described.words.max()) >= self.words:
            raise ArtefactMismatchError(
                f"{name}: expected words of a codebook of {self.words}, found word {int(described.words.max())}"
            )
        return described

    def _residuals(self, found: VisualWords) -> AnyArray:
        """uint64 signs or float32; without words, they may have come as either."""
        if not len(found.words):
            return np.zeros((0, self._width), np.uint64 if self.binary else np.float32)
        return packed_in_64(found.residuals, self.dim) if self.binary else found.residuals

    def _residual_problems(self, residuals: AnyArray, first: int) -> Iterator[str]:
        if self.binary:
            bits = np.unpackbits(np.ascontiguousarray(residuals[:, -1:]).view(np.uint8), axis=1)
            if bits[:, (self.dim - 1) % BITS + 1 :].any():
                yield f"expected zeros behind the {self.dim} signs of residuals, found others after posting {first}"
            return
        numbers = residuals.astype(np.float32)
        if not np.isfinite(numbers).all():
            yield f"expected finite residuals, found others after posting {first}"
            return
        try:
            check_unit(f"postings from {first}", numbers)
        except ValueError as error:
            yield str(error)

    def _places(self, places: WordPlaces, size: tuple[int, int]) -> AnyArray:
        stored = np.zeros(len(places), self._place)
        shares = np.rint(places.points.astype(np.float64) / (size[1], size[0]) * LARGEST_SHARE)
        stored["word"], stored["code"] = places.words, places.codes
        stored["x"], stored["y"] = shares.clip(0, LARGEST_SHARE).T
        return stored

    def _as_places(self, stored: AnyArray, size: tuple[int, int]) -> WordPlaces:
        shares = np.stack([stored["x"], stored["y"]], axis=1) / LARGEST_SHARE
        points = (shares * (size[1], size[0])).astype(np.float32)
        return WordPlaces(stored["word"].astype(np.int32), points, stored["code"].copy())

    @property
    def _width(self) -> int:
        """Numbers that a residual is stored in."""
        return -(-self.dim // BITS) if self.binary else self.dim

    @property
    def _stored_residual(self) -> np.dtype[np.generic]:
        return np.dtype("<u8") if self.binary else np.dtype(self.dtype).newbyteorder("<")

    @property
    def _place(self) -> np.dtype[np.generic]:
        return np.dtype([("word", "<u4"), ("x", "<u2"), ("y", "<u2"), ("code", "u1", (-(-self.dim // 8),))])


class WordSorter(ColumnSorter):
    """Collects the words of a segment, to sort them when it is complete.

    Args:
        schema: Of the rows.
    """

    def __init__(self, schema: WordRows) -> None:
        self._schema = schema
        self._counts: list[AnyArray] = []
        self._words: list[AnyArray] = []
        self._residuals = np.zeros((0, schema._width), schema._stored_residual)
        self._filled = 0

    def add(self, columns: Columns) -> Columns:
        """As :meth:`ColumnSorter.add`: what belongs to rows or images, whose order stays."""
        first, last = self._filled, self._filled + len(columns["words"])
        self._counts.append(columns["counts"])
        self._words.append(columns["words"])
        if last > len(self._residuals):  # in place: they are most of a segment, and in memory once
            self._residuals.resize((max(last, first * 9 // 8), self._schema._width), refcheck=False)
        self._residuals[first:last] = columns["residuals"]
        self._filled = last
        return {n: np.ascontiguousarray(columns[n]) for n in ("scales", "placed", "places") if n in columns}

    def rest(self) -> Iterator[Columns]:
        """As :meth:`ColumnSorter.rest`."""
        counts, words = np.concatenate(self._counts), np.concatenate(self._words)
        self._counts, self._words = [], []
        order = np.argsort(words, kind="stable").astype(np.uint32)
        words.sort()
        rows = np.repeat(np.arange(len(counts), dtype="<u4"), counts)
        first = np.flatnonzero(np.diff(words, prepend=words[:1] + 1)) if len(words) else np.zeros(0, np.int64)
        yield {"vocabulary": words[first].astype("<u4"), "starts": np.append(first, len(words)).astype("<i8")}
        for start in range(0, len(order), CHUNK_POSTINGS):
            here = order[start : start + CHUNK_POSTINGS]
            yield {"postings": rows[here], "residuals": self._residuals[here]}


def in_memory(schema: WordRows, database: Sequence[VisualWords]) -> WordBlock:
    """The rows of images as an inverted file in memory; ``images`` of the block are positions in ``database``."""
    sorter, columns = schema.sorter(), dict[str, list[AnyArray]]()
    parts = [sorter.add(schema.encode(one)) for one in database]
    empty = {name: [values] for name, values in schema.decode(dict.fromkeys(schema.columns, b""), 0).items()}
    columns = {**empty, "starts": []}
    for part in (*parts, *(sorter.rest() if parts else ({"starts": np.zeros(1, np.int64)},))):
        for name, values in part.items():
            columns[name].append(values)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    for values in joined.values():
        values.flags.writeable = False  # as what is mapped: else the loop of Numba is compiled twice
    images = np.repeat(np.arange(len(database), dtype=np.int64), [len(one) for one in database])
    return schema.block(joined, images, None)
