"""docs/design.md lists the functions that a photo and a query go through: each has to be there."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest

DESIGN = Path(__file__).parents[1] / "docs" / "design.md"


def walks() -> dict[str, list[str]]:
    """Dotted names by the heading that they stand below."""
    sections = DESIGN.read_text(encoding="utf-8").split("\n## ")[1:]
    return {
        section.partition("\n")[0]: re.findall(r"`(objemb(?:\.\w+){2,})`", section)
        for section in sections
        if section.startswith("The walk of")
    }


def resolved(name: str) -> object:
    """What a dotted name stands for: a module, then attributes."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


def test_there_are_three_walks() -> None:
    assert {heading: len(names) > 10 for heading, names in walks().items()} == {
        "The walk of a photo through `objemb index`": True,
        "The walk of a query box through `objemb search`": True,
        "The walk of a query box through an index of visual words": True,
    }


@pytest.mark.parametrize("name", sorted({name for names in walks().values() for name in names}))
def test_what_is_on_the_way_is_there(name: str) -> None:
    assert callable(resolved(name))


@pytest.mark.parametrize("name", ["objemb.search.retrieval.Retrieval.find", "objemb.search.nothing.at_all"])
def test_missing_names_are_reported(name: str) -> None:
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolved(name)


def test_every_file_that_a_search_goes_through_is_named() -> None:
    """Real calls against the list: no step is left out but those of rooms that the counting script names."""
    script = runpy.run_path(str(DESIGN.parents[1] / "tools" / "count_house.py"))
    called = script["modules_called"]()
    assert "objemb.search.retrieval" in called
    steps = called - script["helpers"](called)
    named = {name for name in walks()["The walk of a query box through `objemb search`"] if resolved(name)}
    files = {name[: len(step)] for name in named for step in steps if name.startswith(f"{step}.")}
    assert steps - files == set(), "not in docs/design.md"


def test_rooms_of_helpers_are_there() -> None:
    script = runpy.run_path(str(DESIGN.parents[1] / "tools" / "count_house.py"))
    for helper in script["HELPERS"]:
        assert importlib.util.find_spec(f"objemb.{helper}"), helper
    some = {"objemb.ops.boxes", "objemb.checks", "objemb.checkers", "objemb.index.storage.files", "objemb.index.store"}
    assert script["helpers"](some) == some - {"objemb.checkers", "objemb.index.store"}
