"""`objemb compact`."""

from __future__ import annotations

from objemb.cli.errors import guarded
from objemb.cli.options import IndexPath, Json
from objemb.cli.output import human_bytes, note, print_json
from objemb.cli.progress import Progress
from objemb.search.approximate import build_approximate


@guarded
def compact(index: IndexPath, as_json: Json = False) -> None:
    """Drop what was deleted and join small segments: smaller on disk, faster to search."""
    from objemb.index.store import Index

    opened = Index.open(index)
    before = opened.info()
    with Progress() as display:
        done = opened.compact(on_images=display.meter("compacting", "images", len(opened)).step)
    build_approximate(opened, before["approximate"], on_note=note)
    after = opened.info()
    if as_json:
        print_json({"index": str(index), "compacted": done, "before": before, "after": after})
    else:
        sizes = f"{human_bytes(before['bytes'])} -> {human_bytes(after['bytes'])}"
        print(f"{index}: {sizes if done else 'nothing to do'}")
