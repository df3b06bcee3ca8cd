"""Every test process computes on one thread: several processes share the cores, and threads that spin in turn stall."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["OBJEMB_TUNED"] = ""  # what was measured for the models of whoever runs the tests

import pytest
import torch  # reads the variable when it is imported

torch.set_num_threads(1)


@pytest.fixture
def umask_022() -> Iterator[None]:
    """The umask that most systems have, for tests of rights."""
    before = os.umask(0o022)
    yield
    os.umask(before)
