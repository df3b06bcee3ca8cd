"""Model folders that earlier versions wrote: they open, with the same fingerprint, and describe as they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from objemb.models import load_model
from objemb.structures import Photo

FOLDERS = Path(__file__).parent / "folders"
#: By folder what the version that wrote it said: the fingerprint, and the first vectors of :func:`striped`.
KNOWN = {
    "pooled_regions": (
        "a9dff6f35c88fb4157b2252d45246e4edb2a97cf3bc3246bf99b434505387bde",
        [[0.046561, 0.85221, -0.521124]],
    ),
    "rmac_network": (
        "737ce055831176f7ad50565f3bab81b9e212abc6ba9cd25b1df8d4646d53083a",
        [
            [0.400054, 0.912153, 0.089071],
            [0.400054, 0.912153, 0.089071],
            [0.400054, 0.912153, 0.089071],
            [0.397225, 0.912979, 0.093175],
        ],
    ),
}


def striped() -> Photo:
    pixels = torch.arange(3 * 48 * 64).mul(37).remainder(256).byte().reshape(3, 48, 64)
    return Photo("striped", pixels, (48, 64))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_folder_of_an_earlier_version_opens_with_its_fingerprint(name: str) -> None:
    model = load_model(FOLDERS / name)
    fingerprint, vectors = KNOWN[name]
    assert model.fingerprint == fingerprint
    assert model.dim == 3
    described = model.describe(striped())
    assert np.allclose(described.vectors[: len(vectors)], vectors, atol=1e-4)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_saved_again_it_is_the_same_model(name: str, tmp_path: Path) -> None:
    load_model(FOLDERS / name).save(tmp_path / "again")
    assert load_model(tmp_path / "again").fingerprint == KNOWN[name][0]
    for file in ("weights.safetensors", "whitening.safetensors"):
        old, new = FOLDERS / name / file, tmp_path / "again" / file
        assert old.exists() == new.exists()
        assert not old.exists() or old.read_bytes() == new.read_bytes()


def test_the_whitening_comes_back() -> None:
    whitening = load_model(FOLDERS / "pooled_regions").describer.whitening
    assert whitening is not None
    assert (whitening.input_dim, whitening.dim, whitening.fitted_on) == (4, 3, "noise")
