from __future__ import annotations

import numpy as np
import pytest

from objemb.datasets.masks import box_of, decode_mask, encode_mask


def test_runs_by_hand() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], dtype=bool)  # columns: 0 0 | 1 0 | 1 1
    assert encode_mask(mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}


def test_runs_begin_with_zeros_even_if_there_are_none() -> None:
    assert encode_mask(np.ones((2, 2), dtype=bool)) == {"size": [2, 2], "counts": [0, 4]}
    assert encode_mask(np.zeros((2, 2), dtype=bool)) == {"size": [2, 2], "counts": [4]}


def test_round_trip_and_agreement_with_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 5), (16, 33)):
        mask = rng.random(shape) < 0.4
        runs = encode_mask(mask)
        assert (decode_mask(runs) == mask).all()
        assert (coco.decode(coco.frPyObjects(runs, *shape)) == mask).all()


def test_wrong_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="expected runs of 2 x 3 pixels, found 5"):
        decode_mask({"size": [2, 3], "counts": [2, 3]})


def test_box_is_tight() -> None:
    mask = np.zeros((8, 9), dtype=bool)
    assert box_of(mask) == (0, 0, 0, 0)
    mask[2, 3] = mask[5, 6] = True
    assert box_of(mask) == (3, 2, 7, 6)
