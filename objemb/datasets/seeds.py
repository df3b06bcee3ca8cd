"""Random numbers that depend only on given keys."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def generator(*keys: int | str) -> np.random.Generator:
    """A generator that is seeded by the keys, such as ``("scene", 0, "train", 17)``.

    The same keys give the same numbers in every process and on every machine, whatever was drawn before, so that the
    items of a data set can be made in any order and by any number of workers.
    """
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def round_robin(order: Sequence[int], number: int) -> int:
    """Item ``number`` of an order that is repeated, each time shifted by one.

    All items occur equally often, even among every fifth or every tenth number.
    """
    return int(order[(number + number // len(order)) % len(order)])


def is_alone(share: float, seed: int, split: str, number: int) -> bool:
    """Whether scene ``number`` is one of the ``share`` of scenes that show a single product.

    It is drawn independently of the contents of the scene, so that another share does not change the other scenes.
    """
    return share > 0 and generator("alone", seed, split, number).random() < share
