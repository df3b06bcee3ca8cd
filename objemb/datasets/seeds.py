"""Random numbers that depend on what they are for, and on nothing else."""

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
    """Item ``number`` of an order that is repeated, each time from one place later.

    Every item comes up as often as the others, also among every fifth or every tenth number.
    """
    return int(order[(number + number // len(order)) % len(order)])


def is_alone(share: float, seed: int, split: str, number: int) -> bool:
    """Whether scene ``number`` shows one product and nothing else, where a share of the scenes does.

    It is drawn independently of the content of the scene, so that another share leaves the other scenes as they are.
    """
    return share > 0 and generator("alone", seed, split, number).random() < share
