"""An index of visual words against the public package ``asmk``, whose inverted file lies in memory, and its growth.

Both get the same words with the same binary residuals and one thread, and return the best 100 images. The package keeps
everything in memory; the index writes files that survive a power cut.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.index import word_kernels
from objemb.index.engines.inverted_file import InvertedFileSearch
from objemb.index.storage.snapshot import Snapshot
from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.ops.scored_pairs import NO_HIT
from objemb.structures import Regions, VisualWords, WordPlaces
from objemb.structures.fields import points_inside
from objemb.types import Float32Array, Int64Array
from tools.benchmarks.asmk_memory import CLEAR, DEPTH, DIM, as_words, peaks, write_words

FULL = {"few": 2_000, "many": 20_000, "most": 100_000, "added": 1_000, "features": 300, "queries": 5, "rounds": 7}
SMALL = {"few": 20, "many": 60, "most": 100, "added": 20, "features": 10, "queries": 2, "rounds": 2}
ASSIGNMENTS = 5
#: Boxes of an image, beside the whole photo, where sizes on disk are compared.
BOXES = 10
CODEBOOKS = (1_024, 65_536)


def run(sizes: Mapping[str, int], seed: int) -> Iterator[Ratio]:
    """All ratios: against the package where it is installed, then growth, then sizes on disk."""
    os.environ["OMP_NUM_THREADS"] = "1"
    word_kernels.COMPILE_AFTER = 0  # where Numba is installed, compile before anything is measured
    with tempfile.TemporaryDirectory() as folder:
        for words in CODEBOOKS if find_spec("asmk") else ():
            for images in ("few", "many"):
                yield from _against_package(Path(folder) / f"{words} {images}", sizes, images, words, seed)
        yield from _growth(Path(folder), sizes, seed)
        yield from _forms(Path(folder), sizes, seed)


def _against_package(folder: Path, sizes: Mapping[str, int], images: str, words: int, seed: int) -> Iterator[Ratio]:
    from asmk import hamming, inverted_file, kernel

    random, count, name = np.random.default_rng(seed), sizes[images], f"{sizes[images]} images, {words} words"
    queries = [_drawn(random, words, sizes["features"] * ASSIGNMENTS) for _ in range(sizes["queries"])]
    theirs = inverted_file.IVF.initialize_empty(codebook_size=words, use_idf=False)
    own, packed, lists = [], [], []
    for number in range(count):
        image_words, residuals = _drawn(random, words, sizes["features"])
        own.append(_as_words(f"{number}", image_words, residuals))
        packed.append(hamming.binarize_and_pack_2D(residuals))
        lists.append(image_words)
    signs, numbers = np.concatenate(packed), np.repeat(np.arange(count), [len(image_words) for image_words in lists])
    start = time.perf_counter()
    theirs.add(signs, np.concatenate(lists), numbers)
    their_seconds = time.perf_counter() - start
    start = time.perf_counter()
    index = _built(folder / "measured", words, own)
    seconds = time.perf_counter() - start
    yield ratio(f"building: asmk / objemb, {name}", [their_seconds], [seconds], ">= 3")
    arrays = [a for a in (*theirs.ivf_vecs, *theirs.ivf_image_ids) if a is not None]
    held, stored = sum(a.nbytes for a in arrays), index.info()["bytes"]
    facts = {"bytes_per_image": stored / count}
    yield Ratio(f"bytes: objemb (files) / asmk (memory), {name}", stored / held, "<= 1", facts=facts)

    compare = kernel.ASMKKernel(None, binary=True).similarity
    asked = [(hamming.binarize_and_pack_2D(r), w) for w, r in queries]
    described = [_as_words("query", *query) for query in queries]
    blocks: list[Any] = [*Snapshot.load(index.path).blocks]
    engine = InvertedFileSearch()
    rows = [index.schema.queries([query]) for query in described]
    group = np.zeros(1, np.int64)

    def package() -> list[Any]:
        def similarity(*arguments: Any) -> Any:
            return compare(*arguments, alpha=3, similarity_threshold=0)

        return [theirs.search(r, w, similarity_func=similarity, topk=DEPTH) for r, w in asked]

    def objemb() -> list[Any]:
        return [engine.search(query, group, DEPTH, blocks) for query in rows]

    def answers() -> list[Any]:
        return [index.search(query, DEPTH, runners_up=0) for query in described]

    for (_, expected), hits, answer in zip(package(), objemb(), answers(), strict=True):
        scores = hits.scores[0, hits.images[0] != NO_HIT]
        np.testing.assert_allclose(scores, expected[: len(scores)], rtol=1e-5)
        np.testing.assert_array_equal([hit.score for hit in answer], scores)
    times = alternate({"asmk": package, "objemb": objemb, "answers": answers}, sizes["rounds"])
    yield ratio(f"queries: asmk / objemb, {name}", times["asmk"], times["objemb"], ">= 10", queries=len(queries))
    yield ratio(f"the same with ids, boxes and metadata, {name}", times["asmk"], times["answers"], queries=len(queries))
    if not CLEAR.exists():
        return
    write_words(folder, "images", lists, [one.residuals for one in own], packed)
    write_words(folder, "queries", [w for _, w in asked], [one.residuals for one in described], [r for r, _ in asked])
    for step, bytes_ in peaks(folder, words).items():
        facts = {f"{side}_bytes": count for side, count in bytes_.items()}
        yield Ratio(
            f"peak memory, {step}: objemb / asmk, {name}", bytes_["objemb"] / bytes_["asmk"], "<= 1", facts=facts
        )


def _growth(folder: Path, sizes: Mapping[str, int], seed: int) -> Iterator[Ratio]:
    """Seconds of a query at each size, and of adding images to a large index and to an empty one."""
    random, words = np.random.default_rng(seed), CODEBOOKS[1]
    queries = [
        _as_words("query", *_drawn(random, words, sizes["features"] * ASSIGNMENTS)) for _ in range(sizes["queries"])
    ]
    indexes = {}
    for name in ("few", "many", "most"):
        indexes[name] = Index.create(folder / name, schema=WordRows(DIM, words), fingerprint="benchmark")
        with indexes[name].writer() as writer:
            for number in range(sizes[name]):
                writer.add(_as_words(f"{number}", *_drawn(random, words, sizes["features"])))
    sides = {n: (lambda index=i: [index.search(q, DEPTH, runners_up=0) for q in queries]) for n, i in indexes.items()}
    times = alternate(sides, sizes["rounds"])
    for large, small in (("many", "few"), ("most", "many")):
        label = f"queries: {sizes[large]} / {sizes[small]} images, {words} words"
        yield ratio(label, times[large], times[small], queries=len(queries))
    seconds: dict[str, list[float]] = {"most": [], "none": []}
    for number in range(sizes["rounds"]):
        added = [
            _as_words(f"added {number} {n}", *_drawn(random, words, sizes["features"])) for n in range(sizes["added"])
        ]
        empty = Index.create(folder / f"none {number}", schema=WordRows(DIM, words), fingerprint="benchmark")
        for name, target in (("most", indexes["most"]), ("none", empty)):
            start = time.perf_counter()
            with target.writer() as writer:
                for image in added:
                    writer.add(image)
            seconds[name].append(time.perf_counter() - start)
    label = f"adding {sizes['added']} images: to {sizes['most']} / to none"
    yield ratio(label, seconds["most"], seconds["none"])


def _forms(folder: Path, sizes: Mapping[str, int], seed: int) -> Iterator[Ratio]:
    """Bytes of an image on disk in each form, with and without the positions of its features, over those of ASMK
    without boxes. All forms have the same features and words."""
    random, words = np.random.default_rng(seed), CODEBOOKS[1]
    drawn = [_with_boxes(random, words, sizes["features"]) for _ in range(sizes["few"])]
    least = None
    for positions in (False, True):
        for form in ("ASMK", "R-ASMK", "regions as items"):
            schema = WordRows(
                DIM, words, positions=positions, items="regions" if form == "regions as items" else "images"
            )
            index = Index.create(folder / f"{form} {positions}", schema=schema, fingerprint="benchmark")
            with index.writer() as writer:
                for number, (features, boxes) in enumerate(drawn):
                    writer.add(_in_form(f"{number}", form, features, boxes))
            index.compact()
            each = index.info()["bytes"] / sizes["few"]
            least = least or each
            label = f"bytes of an image: {form}{' with positions' if positions else ''} / ASMK"
            yield Ratio(label, each / least, facts={"bytes_per_image": each, "boxes": BOXES})


def _with_boxes(random: np.random.Generator, words: int, features: int) -> tuple[WordPlaces, Float32Array]:
    """Features with words, positions in a photo of 640 x 480 pixels and signs; and boxes a quarter to half as wide and
    high as the photo."""
    points = random.random((features, 2)) * (640, 480)
    codes = random.integers(0, 256, (features, DIM // 8), np.uint8)
    places = WordPlaces(random.integers(0, words, features).astype(np.int32), points.astype(np.float32), codes)
    corners = random.random((BOXES, 2)) * (320, 240)
    sides = (0.25 + random.random((BOXES, 2)) / 4) * (640, 480)
    return places, np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def _in_form(name: str, form: str, features: WordPlaces, boxes: Float32Array) -> VisualWords:
    """Features as words of the whole photo; boxes are regions without words, or with words of their own."""
    regions = Regions.whole((480, 640))
    if form != "ASMK":
        every = np.concatenate([regions.boxes, boxes])
        regions = Regions(boxes=every, size=(480, 640), scores=np.ones(len(every), np.float32))
    inside = points_inside(features.points, regions.boxes)
    if form == "R-ASMK":
        inside[1:] = False
    row, feature = np.nonzero(inside)
    pairs, first = np.unique(np.stack([row, features.words[feature]], axis=1), axis=0, return_index=True)
    rows, row_words = pairs.T
    scales = np.ones(len(regions), np.float32)
    ones = np.ones(len(row_words), np.float32)
    signs = features.codes[feature[first]]
    return VisualWords(name, regions, DIM, rows, row_words.astype(np.int32), signs, ones, scales, features)


def _drawn(random: np.random.Generator, words: int, features: int) -> tuple[Int64Array, Float32Array]:
    """The words that some features have, and a residual for each."""
    distinct = np.unique(random.integers(0, words, features))
    return distinct, random.standard_normal((len(distinct), DIM)).astype(np.float32)


def _as_words(name: str, words: Int64Array, residuals: Float32Array) -> VisualWords:
    return as_words(name, words, np.packbits(residuals > 0, axis=1))


def _built(folder: Path, words: int, images: Sequence[VisualWords]) -> Index:
    index = Index.create(folder, schema=WordRows(DIM, words), fingerprint="benchmark")
    with index.writer() as writer:
        for image in images:
            writer.add(image)
    return index
