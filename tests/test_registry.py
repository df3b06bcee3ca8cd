from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from objemb import registry

FAKE_POOLING = """
from torch import nn
from objemb.registry import plugin

class Helper:
    pass

@plugin
class Fake(nn.Module):
    def __init__(self, *, p, power=1.0, backbone=None):
        super().__init__()
        self.p, self.power, self.backbone = p, power, backbone
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


def test_the_file_name_is_the_name(add: Callable) -> None:
    add("pooling", "fake", FAKE_POOLING)
    add("pooling", "_hidden", FAKE_POOLING)
    assert "fake" in registry.names("pooling")
    assert not {"base", "_hidden"} & set(registry.names("pooling"))
    assert list(registry.names("pooling")) == sorted(registry.names("pooling"))
    assert registry.load("pooling", "fake").registry_name == "fake"


def test_files_are_imported_when_they_are_asked_for(add: Callable) -> None:
    add("pooling", "heavy", "raise ImportError(\"pip install 'objemb[heavy]'\")")
    assert "heavy" in registry.names("pooling")
    with pytest.raises(ImportError, match=r"objemb\[heavy\]"):
        registry.load("pooling", "heavy")


@pytest.mark.parametrize("kind", sorted(set(registry.KINDS.values())))
def test_unknown_names_list_the_known(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} name: expected one of .*, found 'nonesuch'"):
        registry.load(kind, "nonesuch")


def test_unknown_kinds_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"kind: expected one of .*'backbones'.*found 'backbone' .did you mean"):
        registry.names("backbone")


@pytest.mark.parametrize(("text", "found"), [("", 0), (FAKE_POOLING + "\n@plugin\nclass Other: pass", 2)])
def test_a_file_holds_one_plugin(add: Callable, text: str, found: int) -> None:
    add("pooling", "odd", text)
    with pytest.raises(TypeError, match=rf"objemb/pooling/odd\.py: expected one class marked @plugin, found {found}"):
        registry.load("pooling", "odd")


def test_an_imported_or_derived_plugin_is_not_the_files_own(add: Callable) -> None:
    add("pooling", "fake", FAKE_POOLING)
    add("pooling", "derived", "from objemb.pooling.fake import Fake\nfrom objemb.registry import plugin\n"
        "class Between(Fake): pass\n@plugin\nclass Derived(Between): pass\n")  # fmt: skip
    assert registry.load("pooling", "derived").__name__ == "Derived"


def test_build_passes_the_keys_as_arguments(add: Callable) -> None:
    add("pooling", "fake", FAKE_POOLING)
    assert list(registry.parameters("pooling", "fake")) == ["p", "power", "backbone"]
    settings = {"name": "fake", "p": 3.0}
    built = registry.build("pooling", settings)
    assert (built.p, built.power) == (3.0, 1.0)
    assert settings == {"name": "fake", "p": 3.0}


def test_build_builds_the_parts_first(add: Callable) -> None:
    add("pooling", "fake", FAKE_POOLING)
    add("backbones", "inner", "from objemb.registry import plugin\n@plugin\nclass Inner:\n"
        "    def __init__(self, arch='x'): self.arch = arch\n")  # fmt: skip
    built = registry.build("pooling", {"name": "fake", "p": 1, "backbone": {"name": "inner", "arch": "y"}})
    assert built.backbone.arch == "y"
    ready = registry.build("pooling", {"name": "fake", "p": 1, "backbone": built.backbone})
    assert ready.backbone is built.backbone
    several = registry.build("pooling", {"name": "fake", "p": 1, "backbone": [{"name": "inner"}, built.backbone]})
    assert [b.arch for b in several.backbone] == ["x", "y"]


def test_a_class_without_a_constructor_takes_no_keys(add: Callable) -> None:
    add(
        "pooling",
        "bare",
        "from torch import nn\nfrom objemb.registry import plugin\n@plugin\nclass Bare(nn.Module): ...",
    )
    assert registry.parameters("pooling", "bare") == {}
    assert type(registry.build("pooling", {"name": "bare"})).__name__ == "Bare"
    with pytest.raises(ValueError, match="pooling/bare: unknown key 'p'"):
        registry.build("pooling", {"name": "bare", "p": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "fake", "p": 1, "powr": 2},
            r"pooling/fake: unknown key 'powr' \(did you mean 'power'\?\); known keys",
        ),
        ({"name": "fake", "power": 2}, "pooling/fake: expected the keys 'p', found 'name', 'power'"),
        ({"p": 1}, "pooling: expected a mapping with the key 'name', found"),
        ("fake", "pooling: expected a mapping with the key 'name', found 'fake'"),
    ],
)
def test_bad_settings_are_refused(add: Callable, settings: Any, message: str) -> None:
    add("pooling", "fake", FAKE_POOLING)
    with pytest.raises(ValueError, match=message):
        registry.build("pooling", settings)


def test_what_plug_ins_share_is_none(add: Callable) -> None:
    assert not set(registry.SHARED) & set(registry.names("rerank"))
    assert "query_expansion" in registry.names("rerank")
