from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements")
# not by name: other checkouts on the path have a package "tools" as well
constraints = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "floor.py"))["constraints"]


def test_no_extra_admits_the_versions_of_lightning_that_were_malware() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [packaging.Requirement(r) for group in project["optional-dependencies"].values() for r in group]
    (lightning,) = (r.specifier for r in asked if r.name == "lightning")
    assert [v for v in ("2.6.0", "2.6.1", "2.6.2", "2.6.3", "2.6.4") if v in lightning] == ["2.6.4"]


def test_every_dependency_has_a_floor_to_test_with(tmp_path: Path) -> None:
    found = dict(line.split("==") for line in constraints())
    assert {"numpy", "torch", "torchvision", "lightning", "faiss-cpu"} <= set(found)
    assert not {"objemb", "ruff", "mypy"} & set(found)
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nname = "objemb"\ndependencies = ["numpy>=2.1,!=2.2", "rich"]\n'
        'optional-dependencies = {dev = ["x"]}\n'
    )
    with pytest.raises(ValueError, match=r"expected a lowest version such as numpy>=2\.1, found 'rich'"):
        list(constraints(project))
