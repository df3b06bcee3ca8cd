"""Every test process computes on one thread: several processes share the cores, and threads that spin in turn stall."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # reads the variable when it is imported

torch.set_num_threads(1)
