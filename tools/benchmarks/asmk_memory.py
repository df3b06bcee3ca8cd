"""Peak memory of an index of visual words and of the public package ``asmk``, each in a separate process.

    python -m tools.benchmarks.asmk_memory build|query asmk|objemb FOLDER WORDS

prints by how many bytes a step raises the peak resident memory of its process. The step ``build`` adds words that are
in memory already; the step ``query`` opens and searches after all libraries are loaded and Numba has compiled its loop.
Pages of files that the index has mapped count as memory. Needs ``/proc`` of Linux.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from objemb.index import word_kernels
from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.structures import Regions, VisualWords
from objemb.types import AnyArray, Int64Array, Uint8Array

DIM, DEPTH = 128, 100
SIDES = ("asmk", "objemb")
#: Writing 5 to this file resets the peak memory of the process.
CLEAR = Path("/proc/self/clear_refs")
ROOT = Path(__file__).resolve().parents[2]


def as_words(name: str, words: Int64Array, signs: Uint8Array) -> VisualWords:
    """The words of an image or a query, with packed signs."""
    return VisualWords(
        name,
        Regions.whole((480, 640)),
        DIM,
        np.zeros(len(words), np.int64),
        words.astype(np.int32),
        signs,
        np.ones(len(words), np.float32),
        np.full(1, 1 / np.sqrt(len(words)), np.float32),
    )


def write_words(
    folder: Path, name: str, words: Sequence[Int64Array], signs: Sequence[AnyArray], theirs: Sequence[AnyArray]
) -> None:
    """Write words of images or queries for :func:`peaks`, with their signs as each side packs them."""
    np.save(folder / f"{name}.counts.npy", np.array([len(w) for w in words]))
    np.save(folder / f"{name}.words.npy", np.concatenate(words))
    np.save(folder / f"{name}.objemb.npy", np.concatenate(signs))
    np.save(folder / f"{name}.asmk.npy", np.concatenate(theirs))


def peaks(folder: Path, words: int) -> dict[str, dict[str, int]]:
    """Peak bytes of each step and side, for the ``images`` and ``queries`` that were written to a folder."""
    return {step: {side: _peak(step, side, folder, words) for side in SIDES} for step in STEPS}


def _peak(step: str, side: str, folder: Path, words: int) -> int:
    command = [sys.executable, "-m", "tools.benchmarks.asmk_memory", step, side, str(folder), str(words)]
    return int(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(step: str, side: str, folder: Path, words: int) -> int:
    """Bytes by which a step of one side raises the peak memory of this process."""
    run = STEPS[step][side](folder, words)
    before = _memory("VmRSS")
    CLEAR.write_text("5", encoding="ascii")
    finish = run()
    peak = _memory("VmHWM") - before
    finish()
    return peak


def _asmk_built(folder: Path, words: int) -> Callable[[], Callable[[], None]]:
    """Build in memory; afterwards the lists are written at the length that they have allocated."""
    from asmk import inverted_file

    counts, image_words, signs = _read(folder, "images", "asmk")
    numbers = np.repeat(np.arange(len(counts)), counts)
    built = inverted_file.IVF.initialize_empty(codebook_size=words, use_idf=False)

    def write() -> None:
        lists = [pair for pair in zip(built.ivf_vecs, built.ivf_image_ids, strict=True) if pair[0] is not None]
        np.save(folder / "lists.codes.npy", np.concatenate([codes for codes, _ in lists]))
        np.save(folder / "lists.ids.npy", np.concatenate([ids for _, ids in lists]))
        np.save(folder / "lists.lengths.npy", [0 if codes is None else len(codes) for codes in built.ivf_vecs])
        np.save(folder / "lists.counts.npy", built.counts)
        np.save(folder / "lists.norm_factor.npy", built.norm_factor)

    def run() -> Callable[[], None]:
        built.add(signs, image_words, numbers)
        return write

    return run


def _asmk_searched(folder: Path, words: int) -> Callable[[], Callable[[], None]]:
    from asmk import inverted_file, kernel

    queries = list(_each(*_read(folder, "queries", "asmk")))
    compare = kernel.ASMKKernel(None, binary=True).similarity

    def similarity(*arguments: Any) -> Any:
        return compare(*arguments, alpha=3, similarity_threshold=0)

    def run() -> Callable[[], None]:
        names = ("codes", "ids", "lengths", "counts", "norm_factor")
        codes, ids, lengths, counts, norms = (np.load(folder / f"lists.{name}.npy") for name in names)
        ends = np.cumsum(lengths)[:-1]
        lists = {"ivf_vecs": np.split(codes, ends), "ivf_image_ids": np.split(ids, ends)}
        state = {"norm_factor": norms, "n_images": len(norms), **lists, "counts": counts, "imid_offset": 0}
        index = inverted_file.IVF(**state, idf=np.ones(words, np.float32), use_idf=False)
        for query_words, signs in queries:
            index.search(signs, query_words, similarity_func=similarity, topk=DEPTH)
        return _nothing

    return run


def _objemb_built(folder: Path, words: int) -> Callable[[], Callable[[], None]]:
    images = list(_each(*_read(folder, "images", "objemb")))
    _index_of_one(folder / "build", words, as_words("one", *images[0]))
    index = Index.create(folder / "index", schema=WordRows(DIM, words), fingerprint="benchmark")

    def run() -> Callable[[], None]:
        with index.writer() as writer:
            for number, (image_words, signs) in enumerate(images):
                writer.add(as_words(f"{number}", image_words, signs))
        return _nothing

    return run


def _objemb_searched(folder: Path, words: int) -> Callable[[], Callable[[], None]]:
    queries = [
        as_words("query", query_words, signs) for query_words, signs in _each(*_read(folder, "queries", "objemb"))
    ]
    word_kernels.COMPILE_AFTER = 0
    _index_of_one(folder / "query", words, queries[0]).search(queries[0], DEPTH, runners_up=0)

    def run() -> Callable[[], None]:
        index = Index.open(folder / "index")
        for query in queries:
            index.search(query, DEPTH, runners_up=0)
        return _nothing

    return run


def _index_of_one(folder: Path, words: int, image: VisualWords) -> Index:
    """An index of one image. Building it loads everything that is loaded on first use."""
    index = Index.create(folder, schema=WordRows(DIM, words), fingerprint="benchmark")
    with index.writer() as writer:
        writer.add(image)
    return index


STEPS = {
    "build": {"asmk": _asmk_built, "objemb": _objemb_built},
    "query": {"asmk": _asmk_searched, "objemb": _objemb_searched},
}


def _read(folder: Path, name: str, side: str) -> tuple[Int64Array, Int64Array, AnyArray]:
    counts, words, signs = (np.load(folder / f"{name}.{part}.npy") for part in ("counts", "words", side))
    return counts, words, signs


def _each(counts: Int64Array, words: Int64Array, signs: AnyArray) -> Iterator[tuple[Int64Array, AnyArray]]:
    ends = np.cumsum(counts)[:-1]
    return zip(np.split(words, ends), np.split(signs, ends), strict=True)


def _nothing() -> None:
    """Write nothing."""


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    step, side, folder, words = sys.argv[1:]
    print(main(step, side, Path(folder), int(words)))
