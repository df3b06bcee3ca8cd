from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements")


def test_no_extra_admits_the_versions_of_lightning_that_were_malware() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [packaging.Requirement(r) for group in project["optional-dependencies"].values() for r in group]
    (lightning,) = (r.specifier for r in asked if r.name == "lightning")
    assert [v for v in ("2.6.0", "2.6.1", "2.6.2", "2.6.3", "2.6.4") if v in lightning] == ["2.6.0", "2.6.1", "2.6.4"]
