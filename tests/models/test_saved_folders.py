"""Model folders that version 0.1's first code wrote, before whitening, bases and projections shared one affine map.

Each holds a small network with random weights and one thing that was fitted on eleven pictures of noise; what the code
of then said of a twelfth is beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb.card import read_card
from objemb.models import load_model, save_model

FOLDERS = Path(__file__).parent / "folders"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDERS / "expected.json").read_text())
BOXES = [(8, 4, 40, 44), (0, 0, 80, 60)]


@pytest.mark.parametrize("name", EXPECTED)
def test_they_open_with_their_fingerprint_and_describe_as_they_did(name: str, tmp_path: Path) -> None:
    model = load_model(FOLDERS / name)
    assert model.fingerprint == EXPECTED[name]["fingerprint"]
    noise = np.random.default_rng(11).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    vectors = torch.as_tensor(model.describe(noise, boxes=BOXES).vectors)
    assert torch.allclose(vectors, torch.tensor(EXPECTED[name]["vectors"]), atol=1e-4)
    save_model(model, tmp_path / "again")
    assert read_card(tmp_path / "again")["fingerprint"] == EXPECTED[name]["fingerprint"]
