"""`objemb info`."""

from __future__ import annotations

from objemb.cli.errors import guarded
from objemb.cli.options import IndexPath, Json
from objemb.cli.output import human_bytes, print_json, print_pairs


@guarded
def info(index: IndexPath, as_json: Json = False) -> None:
    """What is in an index, and which model made it."""
    from objemb.index.store import Index

    facts = Index.open(index).info()
    if as_json:
        print_json({"index": str(index), **facts})
        return
    about = facts.pop("model") or {}
    facts |= {name: f"{facts[name]:.1%}" for name in ("deleted_share", "approximate_share")}
    facts["approximate"] = facts["approximate"] or "none"
    size = human_bytes(facts.pop("bytes"))
    random = about.get("untrained") or []
    pairs = [("index", facts.pop("path")), *facts.items(), ("size", size), ("model", about.get("path", "unknown"))]
    print_pairs([*pairs, *([("random weights", ", ".join(random))] if random else [])])
