"""`objemb info`."""

from __future__ import annotations

from objemb.cli.errors import guarded
from objemb.cli.options import IndexPath, Json
from objemb.cli.output import print_json, print_pairs


@guarded
def info(index: IndexPath, as_json: Json = False) -> None:
    """What is in an index, and which model made it."""
    from objemb.index.store import Index

    facts = Index.open(index).info()
    if as_json:
        print_json({"index": str(index), **facts})
        return
    print_pairs([("index", index), *((k, v) for k, v in facts.items() if k != "model")])
    for key, value in (facts.get("model") or {}).items():
        print_pairs([(f"model {key}", value)])
