"""Every plug-in can be built from settings, and its tests say from which."""

from __future__ import annotations

from pathlib import Path

import pytest

from objemb import registry
from tests.contracts.made import minimal


@pytest.mark.parametrize("kind", sorted(set(registry.KINDS.values())))
def test_constructors_are_fit_for_settings(kind: str) -> None:
    for name in registry.names(kind):
        cls = registry.load(kind, name)
        arguments = registry.arguments(registry.load(kind, name))
        assert cls.__doc__, f"{kind}/{name}: expected a docstring on the class"
        assert "name" not in arguments, f"{kind}/{name}: 'name' is the key that chooses the plug-in"


def test_settings_that_are_missing_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert minimal("pooling", "max", tmp_path) == {"name": "max"}
    monkeypatch.delattr("tests.heads.test_tail.MINIMAL")
    with pytest.raises(pytest.fail.Exception, match=r"add MINIMAL = \{...\} to tests/heads/test_tail.py, the"):
        minimal("heads", "tail", tmp_path)
