"""The index where PyTorch is not installed: everything but making vectors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
sys.modules["torch"] = None  # an import of it fails

import numpy as np
from objemb.index.engines import exact
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.ops.products import best_kernel
from objemb.structures import RegionDescriptors, Regions

exact.MIN_CODES = 1
random = np.random.default_rng(0)
boxes = np.tile(np.array([[0, 0, 5, 5]], np.float32), (3, 1))

def described(n):
    vectors = random.standard_normal((3, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return RegionDescriptors(str(n), Regions(boxes, (9, 9)), vectors, {"price": n})

images = [described(n) for n in range(50)]
index = Index.create(sys.argv[1], schema=UnitVectors(8), fingerprint="a")
with index.writer() as writer:
    for image in images:
        writer.add(image)
for image in images:  # more often than it takes to make codes where they are fast
    assert index.search(image, 1)[0].image == image.image
assert len(index.search(images[3], 5, where="price < 20 and price != 3")) == 5
assert type(best_kernel()).__name__ == "NumpyKernel"
if sys.argv[2] == "faiss":
    index.build_structure()
    assert index.search(images[7], 1, exact=False)[0].image == "7"
assert index.delete(["3"]) == []
assert index.compact()
assert index.verify() == []
assert index.get("4").vectors.tolist() == images[4].vectors.tolist()
other = Index.create(sys.argv[1] + "2", schema=UnitVectors(8), fingerprint="a")
other.merge([index])
assert len(other) == 49
"""


@pytest.mark.parametrize("structure", ["none", "faiss"])
def test_an_index_is_written_and_searched_without_torch(tmp_path: Path, structure: str) -> None:
    if structure == "faiss":
        pytest.importorskip("faiss")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "i"), structure], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
