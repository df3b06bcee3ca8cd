from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import pytest

from objemb.serve.service import Options
from tests.serve.conftest import serving

# not by name: other checkouts on the path have a package "tools" as well
TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "load_service.py"))
main: Any = TOOL["main"]


def test_load_is_reported(index: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(index, Options(writable=True, decoders=1)) as running:
        photo, few = str(photos / "0.png"), ["--seconds", "0.3", "--clients", "1", "3"]
        assert main([running.url, photo, "--box", "10,10,60,60", *few]) == 0
        one, three = capsys.readouterr().out.splitlines()
        assert one.startswith("1 clients: ")
        assert three.startswith("3 clients: ")
        assert "p99" in one
        assert three.endswith("0 failed")
        assert main([running.url, photo, "--mixed", *few, "--pid", str(os.getpid())]) == 0
        out = capsys.readouterr().out
        assert "descriptors" in out
        assert running.client.get("/v1/images").json()["total"] > 8
        assert main([running.url, photo, "--box", "10,10,60,60", "--beside", str(index), "--seconds", "0.2"]) == 0
        assert "0 answers differ" in capsys.readouterr().out
        assert main([running.url, photo, "--box", "10,10,6000,60", "--seconds", "0.2", "--clients", "1"]) == 1
        assert "422" in capsys.readouterr().out


def test_quantiles() -> None:
    quantile: Any = TOOL["quantile"]
    assert [quantile([3.0, 1.0, 2.0, 4.0], share) for share in (0, 0.5, 0.99)] == [1, 3, 4]
