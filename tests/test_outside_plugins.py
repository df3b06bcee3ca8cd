"""Plug-ins of other packages: a distribution in a folder of the test, found as an installed one is."""

from __future__ import annotations

import json
import logging
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from objemb import registry
from objemb.card import CARD
from objemb.checks import ArtefactMismatchError
from objemb.cli.app import command_line
from objemb.config import load_config
from objemb.models import build_model, load_model
from objemb.pooling.base import Pooling
from objemb.registry import PluginError
from tests.tiny import random_photo

LP = """
import torch
from objemb.pooling.base import Pooling

class Lp(Pooling):
    '''Lp norm over the cells of a region.'''

    def __init__(self, *, p: float = 2.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, maps, weights=None):
        powers = maps.abs() ** self.p
        return (powers if weights is None else powers * weights[:, None]).sum(dim=(2, 3)) ** (1 / self.p)
"""
OTHER = """
class Nothing:
    pass

from objemb.regions.whole_image import WholeImage
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with entry points beside those that are installed."""
    modules: list[str] = []

    def install(package: str, group: str, entries: str, version: str = "1.2", **files: str) -> None:
        site = tmp_path / f"site of {package}"
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")
        for name, text in files.items():
            (site / f"{name}.py").write_text(text)
            modules.append(name)
        monkeypatch.syspath_prepend(str(site))

    yield install
    for name in modules:
        sys.modules.pop(name, None)


@pytest.fixture
def lp(install: Install) -> None:
    install("objemb-lp", "objemb.pooling", "lp = their_lp:Lp", their_lp=LP)


def settings(**pooling: Any) -> dict[str, Any]:
    overrides = ["backbone={name: narrow_resnet, width: 4, blocks: [1, 1, 1, 1]}", "extractor.size=64"]
    return load_config("mac", [*overrides, *(f"pooling.{k}={v}" for k, v in pooling.items())])


@pytest.mark.usefixtures("lp")
def test_it_is_listed_without_being_imported() -> None:
    assert "lp" in registry.names("pooling")
    assert "lp" not in registry.names("regions")
    assert "their_lp" not in sys.modules
    assert registry.load(Pooling, "lp").registry_name == "lp"
    assert "their_lp" in sys.modules
    with pytest.raises(ValueError, match=r"pooling name: expected one of .*'lp'.*, found 'lpp' \(did you mean 'lp'\?"):
        registry.load("pooling", "lpp")


def test_a_shell_completes_its_name(install: Install) -> None:
    install("objemb-nearest", "objemb.rerank", "region_nearest = nowhere:Nothing")
    words = {"COMP_WORDS": "objemb search i q --rerank region_", "COMP_CWORD": "5", "_OBJEMB_COMPLETE": "complete_bash"}
    completed = CliRunner().invoke(command_line(), [], prog_name="objemb", env=words).stdout.split()
    assert completed == sorted(["region_nearest", "region_expansion", "region_match", "region_rerank"])


@pytest.mark.usefixtures("lp")
def test_a_config_names_it_as_any_other() -> None:
    resolved = settings(name="lp", p="4.0")
    assert resolved["describer"]["pooling"] == {"name": "lp", "p": 4.0}
    pooling = build_model(resolved).describer.pooling  # type: ignore[union-attr]
    maps = torch.tensor([[[[1.0, 2], [3, 4]]]])
    assert pooling(maps).item() == pytest.approx((1 + 16 + 81 + 256) ** 0.25)
    with pytest.raises(ValueError, match=r"describer.pooling: unknown key 'q'.*; known keys of lp: 'p'"):
        settings(name="lp", q=3)


@pytest.mark.usefixtures("lp")
def test_a_model_folder_knows_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    model = build_model(settings(name="lp"))
    model.save(folder)
    said = {"kind": "pooling", "name": "lp", "package": "objemb-lp", "version": "1.2"}
    assert json.loads((folder / CARD).read_text())["provenance"]["plugins"] == {"describer.pooling": said}
    loaded = load_model(folder)
    assert loaded.fingerprint == model.fingerprint
    photo = random_photo(40, 60)
    assert (loaded.query(photo).vectors == model.query(photo).vectors).all()
    assert "lp of objemb-lp 1.2" in CliRunner().invoke(command_line(), ["model", "info", str(folder)]).stdout
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "objemb-lp" not in p])
    with pytest.raises(
        PluginError, match=r"expected its plug-ins to be installed.*\n  pooling/lp, of the package 'objemb-lp 1.2"
    ):
        load_model(folder)


def test_a_model_of_objemb_alone_names_no_package(tmp_path: Path) -> None:
    build_model(settings()).save(tmp_path / "model")
    assert "plugins" not in json.loads((tmp_path / "model" / CARD).read_text())["provenance"]


@pytest.mark.parametrize("plugins", [3, ["x"], {"describer.pooling": "lp"}])
def test_an_odd_list_of_packages_is_refused(tmp_path: Path, plugins: Any) -> None:
    folder = tmp_path / "model"
    build_model(settings()).save(folder)
    card = json.loads((folder / CARD).read_text())
    card["provenance"]["plugins"] = plugins
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(ArtefactMismatchError, match=r"expected a card of a model, found 'provenance.plugins'"):
        load_model(folder)


def test_a_list_of_packages_may_say_anything(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build_model(settings()).save(folder)
    card = json.loads((folder / CARD).read_text())
    card["provenance"]["plugins"] = {
        "x": {},
        "y": {"kind": ["pooling"], "name": 3},
        "z": {"kind": "pooling", "name": []},
    }
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(PluginError, match=r"pooling/\[\], of the package 'None None'"):
        load_model(folder)


def test_a_name_of_objemb_is_not_to_be_taken(install: Install) -> None:
    install("greedy", "objemb.pooling", "max = their_max:Lp\nlp = their_max:Lp", their_max=LP)
    with pytest.raises(
        PluginError,
        match=r"pooling/max: expected one plug-in of this name, found objemb/pooling/max.py and their_max:Lp of the "
        r"package greedy 1.2; uninstall one package",
    ):
        registry.load("pooling", "max")
    assert registry.load("pooling", "gem").__name__ == "Gem"
    assert registry.load("pooling", "lp").__name__ == "Lp"


@pytest.mark.usefixtures("lp")
def test_two_packages_may_not_share_a_name(install: Install) -> None:
    install("lp-again", "objemb.pooling", "lp = their_other:Lp", version="7", their_other=LP)
    with pytest.raises(PluginError, match=r"package lp-again 7 and their_lp:Lp of the package objemb-lp 1.2"):
        registry.load("pooling", "lp")
    assert registry.names("pooling").count("lp") == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere:Lp", "ModuleNotFoundError: No module named 'nowhere'"),
        ("their_broken:Lp", "ZeroDivisionError: division by zero"),
        ("their_other:Missing", "AttributeError: module 'their_other' has no attribute 'Missing'"),
        ("their_other:Nothing", r"expected a class with the contract of pooling as a base, found <class 'their_other"),
        ("their_other:WholeImage", r"expected a class with the contract of pooling as a base, found <class 'objemb"),
        ("their_other", r"expected a class with the contract of pooling as a base, found <module"),
    ],
)
def test_a_broken_one_names_its_package_and_stops_no_other(install: Install, entry: str, message: str) -> None:
    install("broken-pkg", "objemb.pooling", f"lp = {entry}", their_other=OTHER, their_broken="1 / 0")
    assert "lp" in registry.names("pooling")
    with pytest.raises(PluginError, match=f"pooling/lp: .*{entry} of the package broken-pkg 1.2.*{message}"):
        registry.load("pooling", "lp")
    assert settings()["describer"]["pooling"] == {"name": "max"}
    listed = CliRunner().invoke(command_line(), ["model", "build", "mac", "pooling.name=lp", "-o", "nowhere"])
    assert listed.exit_code == 2
    assert "broken-pkg" in listed.output


def test_damaged_metadata_costs_that_package_alone(
    install: Install, lp: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("damaged", "objemb.pooling", "no equals sign here")
    with caplog.at_level(logging.WARNING):
        assert "lp" in registry.names("pooling")
    assert "damaged" in caplog.text


@pytest.mark.usefixtures("lp")
def test_the_command_line_lists_them(install: Install) -> None:
    install("typo", "objemb.poolings", "x = y:Z")
    listed = CliRunner().invoke(command_line(), ["model", "list"])
    assert "pooling lp their_lp:Lp of the package objemb-lp 1.2" in " ".join(listed.stdout.split())
    assert "y:Z of the package typo 1.2: unknown kind of plug-in 'poolings' (did you mean 'pooling'?)" in listed.stderr
    found = json.loads(CliRunner().invoke(command_line(), ["model", "list", "--json"]).stdout)["plugins"]
    lp = {"kind": "pooling", "name": "lp", "package": "objemb-lp", "version": "1.2", "object": "their_lp:Lp"}
    assert lp in found


def test_the_package_of_the_contributors_guide(install: Install) -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("## A plug-in in a package of your own") :]
    (module,), (project,) = (re.findall(rf"^```{kind}\n(.*?)^```", section, re.M | re.S) for kind in ("python", "toml"))
    told = tomllib.loads(project)["project"]
    ((group, entries),) = told["entry-points"].items()
    ((name, value),) = entries.items()
    package, _, file = value.partition(":")[0].partition(".")
    install(
        told["name"], group, f"{name} = {value.replace(f'{package}.{file}', file)}", told["version"], **{file: module}
    )
    pooling = registry.build(Pooling, {"name": "lp", "p": 3.0})
    maps = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pooling(maps), torch.linalg.vector_norm(maps, 3, dim=(2, 3)))
    assert torch.allclose(pooling(maps, torch.ones(2, 3, 5)), pooling(maps))
