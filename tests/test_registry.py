from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from objemb import registry
from objemb.backbones.base import Backbone
from objemb.pooling.base import Pooling
from objemb.rerank.base import Reranker

FAKE_POOLING = """
from dataclasses import dataclass
from torch import nn
from objemb.registry import Plugin, plugin

class Helper:
    pass

@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    word: str = "x"

@dataclass(frozen=True)
class Outer:
    share: float
    inner: Inner = Inner()

    def __post_init__(self):
        if self.share > 1:
            raise ValueError(f"share: expected at most 1, found {self.share}")

@plugin
class Fake(nn.Module, Plugin):
    kind = "pooling"

    def __init__(self, *, p, power=1.0, backbone=None, outer: Outer | None = None, file: str | None = None):
        super().__init__()
        self.p, self.power, self.backbone, self.outer, self.file = p, power, backbone, outer, file

    @staticmethod
    def stand_alone(settings):
        return {**settings, "file": settings["file"] or "none"}
"""
INNER_BACKBONE = """
from objemb.registry import Plugin, plugin

@plugin
class Inner(Plugin):
    kind = "backbones"

    def __init__(self, arch: str = 'x'):
        self.arch = arch
"""


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Adds plug-in files to a kind for the time of a test."""
    written: list[str] = []

    def write(kind: str, name: str, text: str) -> None:
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        package = importlib.import_module(f"objemb.{kind}")
        if str(folder) not in package.__path__:
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        written.append(f"objemb.{kind}.{name}")

    yield write
    for module in written:
        sys.modules.pop(module, None)


@pytest.fixture
def fake(add: Callable) -> None:
    add("pooling", "fake", FAKE_POOLING)
    add("backbones", "inner", INNER_BACKBONE)


def test_the_file_name_is_the_name(add: Callable) -> None:
    add("pooling", "fake", FAKE_POOLING)
    add("pooling", "_hidden", FAKE_POOLING)
    assert "fake" in registry.names("pooling")
    assert not {"base", "_hidden"} & set(registry.names("pooling"))
    assert list(registry.names("pooling")) == sorted(registry.names("pooling"))
    assert registry.load("pooling", "fake").registry_name == "fake"
    assert registry.load(Pooling, "fake") is registry.load("pooling", "fake")
    assert registry.origin("pooling", "fake") is None


def test_files_are_imported_when_they_are_asked_for(add: Callable) -> None:
    add("pooling", "heavy", "raise ImportError(\"pip install 'objemb[heavy]'\")")
    assert "heavy" in registry.names("pooling")
    with pytest.raises(ImportError, match=r"objemb\[heavy\]"):
        registry.load("pooling", "heavy")


@pytest.mark.parametrize("kind", sorted(set(registry.KINDS.values())))
def test_unknown_names_list_the_known(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} name: expected one of .*, found 'nonesuch'"):
        registry.load(kind, "nonesuch")


@pytest.mark.parametrize("kind", sorted(set(registry.KINDS.values())))
def test_every_kind_has_a_contract_that_knows_it(kind: str) -> None:
    for name in registry.names(kind):
        if registry.origin(kind, name) is None:
            assert registry.load(kind, name).kind == kind


def test_unknown_kinds_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"kind: expected one of .*'backbones'.*found 'backbone' .did you mean"):
        registry.names("backbone")


@pytest.mark.parametrize(("text", "found"), [("", 0), (FAKE_POOLING + "\n@plugin\nclass Other(Plugin): pass", 2)])
def test_a_file_holds_one_plugin(add: Callable, text: str, found: int) -> None:
    add("pooling", "odd", text)
    with pytest.raises(TypeError, match=rf"objemb/pooling/odd\.py: expected one class marked @plugin, found {found}"):
        registry.load("pooling", "odd")


def test_a_plugin_has_the_contract_of_its_room(add: Callable) -> None:
    add("pooling", "lost", INNER_BACKBONE)
    with pytest.raises(TypeError, match=r"objemb/pooling/lost\.py: expected a class with the contract of pooling"):
        registry.load("pooling", "lost")


def test_an_imported_or_derived_plugin_is_not_the_files_own(add: Callable) -> None:
    add("pooling", "fake", FAKE_POOLING)
    add("pooling", "derived", "from objemb.pooling.fake import Fake\nfrom objemb.registry import plugin\n"
        "class Between(Fake): pass\n@plugin\nclass Derived(Between): pass\n")  # fmt: skip
    assert registry.load("pooling", "derived").__name__ == "Derived"


@pytest.mark.usefixtures("fake")
def test_build_passes_the_keys_as_arguments() -> None:
    keys = ["p", "power", "backbone", "outer", "file"]
    assert list(registry.arguments(registry.load("pooling", "fake"))) == keys
    settings = {"name": "fake", "p": 3.0}
    built: Any = registry.build(Pooling, settings)
    assert (built.p, built.power) == (3.0, 1.0)
    assert settings == {"name": "fake", "p": 3.0}


@pytest.mark.usefixtures("fake")
def test_build_builds_the_parts_first() -> None:
    built: Any = registry.build(Pooling, {"name": "fake", "p": 1, "backbone": {"name": "inner", "arch": "y"}})
    assert built.backbone.arch == "y"
    ready: Any = registry.build(Pooling, {"name": "fake", "p": 1, "backbone": built.backbone})
    assert ready.backbone is built.backbone
    parts = [{"name": "inner"}, built.backbone]
    several: Any = registry.build(Pooling, {"name": "fake", "p": 1, "backbone": parts})
    assert [b.arch for b in several.backbone] == ["x", "y"]
    alone: Any = registry.build(Backbone, {"name": "inner"})
    assert alone.arch == "x"


def test_a_class_without_a_constructor_takes_no_keys(add: Callable) -> None:
    add(
        "pooling",
        "bare",
        "from torch import nn\nfrom objemb.registry import Plugin, plugin\n"
        "@plugin\nclass Bare(nn.Module, Plugin):\n    kind = 'pooling'\n",
    )
    assert registry.arguments(registry.load("pooling", "bare")) == {}
    assert type(registry.build(Pooling, {"name": "bare"})).__name__ == "Bare"
    with pytest.raises(ValueError, match="pooling: unknown key 'p'"):
        registry.resolve("pooling", {"name": "bare", "p": 3}, "pooling")


@pytest.mark.usefixtures("fake")
def test_resolved_settings_are_complete_and_plain() -> None:
    settings = {"name": "fake", "p": (1, 2), "backbone": [{"name": "inner"}], "outer": {"share": 0.5}}
    assert registry.resolve("pooling", settings, "x") == {
        "name": "fake",
        "p": [1, 2],
        "power": 1.0,
        "backbone": [{"name": "inner", "arch": "x"}],
        "outer": {"share": 0.5, "inner": {"sizes": [1, 2], "word": "x"}},
        "file": "none",  # by its ``stand_alone``
    }
    assert registry.resolve("pooling", {"name": "fake", "p": 1}, "x")["outer"] is None


@pytest.mark.usefixtures("fake")
def test_settings_of_their_own_become_the_dataclass() -> None:
    settings = {"name": "fake", "p": 1, "outer": {"share": 0.5, "inner": {"sizes": [3, 4]}}}
    for given in (settings, registry.resolve("pooling", settings, "x")):
        built: Any = registry.build(Pooling, given)
        assert (built.outer.share, built.outer.inner.sizes, built.outer.inner.word) == (0.5, (3, 4), "x")
    ready: Any = registry.build(Pooling, {"name": "fake", "p": 1, "outer": built.outer})
    assert ready.outer is built.outer
    assert registry.plain(ready.outer) == {"share": 0.5, "inner": {"sizes": [3, 4], "word": "x"}}
    with pytest.raises(ValueError, match=r"^outer: share: expected at most 1, found 2$"):
        registry.build(Pooling, {"name": "fake", "p": 1, "outer": {"share": 2}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": 1, "powr": 2}, r"^x: unknown key 'powr' \(did you mean 'power'\?\); known keys of fake: 'p', 'power'"),
        ({"power": 2}, r"^x: expected the key 'p', which has no default, found 'power'$"),
        ({"p": 1, "arch": "y"}, r"^x: unknown key 'arch'; known keys"),
        (
            {"p": 1, "arch": "y", "backbone": {"name": "inner"}},
            r"unknown key 'arch' \(did you mean 'backbone.arch'\?\)",
        ),
        ({"p": 1, "share": 1}, r"^x: unknown key 'share' \(did you mean 'outer.share'\?\)"),
        ({"p": 1, "backbone": [{"name": "inner", "archh": 1}]}, r"^x.backbone\[0\]: unknown key 'archh'"),
        ({"p": 1, "backbone": "inner"}, r"^x.backbone: expected a part with a name \(one of .*, found 'inner'$"),
        ({"p": 1, "outer": {}}, r"^x.outer: expected the key 'share', which has no default, found nothing$"),
        ({"p": 1, "outer": 3}, r"^x.outer: expected settings, some of 'share', 'inner', found 3$"),
        (
            {"p": 1, "outer": {"share": 1, "inner": {"size": [1]}}},
            r"^x.outer.inner: unknown key 'size' \(did you mean 'sizes'\?\); known keys of inner: 'sizes', 'word'$",
        ),
        (
            {"p": 1, "outer": {"share": 1, "inner": {"word": 3}}},
            r"^x.outer.inner.word: expected a text, found 3; put it in quotes",
        ),
        ({"p": 1, "file": True}, r"^x.file: expected a text, found True"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.resolve("pooling", {"name": "fake", **settings}, "x")


@pytest.mark.parametrize("part", [{"p": 1}, "fake", None, [1]])
def test_a_part_has_a_name(part: Any) -> None:
    with pytest.raises(ValueError, match=r"x: expected a part with a name \(one of 'crow', .*\), found "):
        registry.resolve("pooling", part, "x")


def test_annotations_have_to_be_found(add: Callable) -> None:
    add("pooling", "vague", FAKE_POOLING.replace("Outer | None = None", "'Nowhere | None' = None"))
    with pytest.raises(TypeError, match=r"pooling.vague.Fake: expected annotations .*'Nowhere' is not defined"):
        registry.resolve("pooling", {"name": "vague", "p": 1}, "x")


@dataclass(frozen=True)
class Small:
    steps: int
    words: tuple[str, ...] = ("a",)


def test_plain_settings_alone() -> None:
    assert registry.from_settings(Small, {"steps": 3, "words": ["b", "c"]}, "run") == Small(3, ("b", "c"))
    with pytest.raises(ValueError, match=r"run: unknown key 'stepz' \(did you mean 'steps'\?\); known keys of run: "):
        registry.from_settings(Small, {"stepz": 3}, "run")
    with pytest.raises(ValueError, match="run: expected the key 'steps', which has no default, found nothing"):
        registry.from_settings(Small, {}, "run")
    with pytest.raises(ValueError, match="run: expected settings, some of 'steps', 'words', found 7"):
        registry.from_settings(Small, 7, "run")


def test_what_plug_ins_share_is_none() -> None:
    assert not {"base"} & set(registry.names("rerank"))
    assert not {"base", "capabilities"} & set(registry.names("describers"))
    assert all(issubclass(registry.load(Reranker, name), Reranker) for name in registry.names("rerank"))
