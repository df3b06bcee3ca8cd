"""The user's own photos, indexed and searched."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from objemb.cli.errors import SKIPPED
from objemb.cli.output import note
from objemb.cli.programs.demos.answers import search_others
from objemb.cli.programs.demos.page import Answer, photos_page
from objemb.cli.programs.demos.steps import StepFailedError, run_command
from objemb.disk import write_whole
from objemb.images.sources import ImageRef, find_images
from objemb.index.store import Index
from objemb.models import Model, load_model
from objemb.structures.described import expect_vectors
from objemb.visualize.pictures import result_pictures

#: Number of queries on the page.
QUERIES = 8
PRETRAINED = "quickstart"
ABOUT_PRETRAINED = "Objects found and described by torchvision's pretrained networks, as the config quickstart says."
ABOUT_STUDENT = (
    "Pretrained weights were not available, so these photos were searched with the demo's own student. It was trained "
    "for a few minutes on generated scenes: on photos, expect it to match colours and shapes rather than objects."
)


def search_photos(photos: Path, student: Path, output: Path) -> Path:
    """Index a folder of photos, search for objects detected in some of them, and write a page.

    Uses pretrained weights if they are available, otherwise the student of the demo; the page says which.

    Args:
        photos: Folder of photos.
        student: Model folder of the demo's student.
        output: Folder for the page and the index.

    Raises:
        FileNotFoundError: The folder of photos does not exist.
        StepFailedError: The photos could not be indexed.
    """
    if not photos.is_dir():
        raise FileNotFoundError(f"--photos: expected a folder of photos, found {photos}")
    pretrained = output / "pretrained_model"
    own = not pretrained.is_dir() and bool(_run("objemb", "model", "build", PRETRAINED, "-o", str(pretrained)))
    model, about = (student, ABOUT_STUDENT) if own else (pretrained, ABOUT_PRETRAINED)
    index = output / ("photos_index_student" if own else "photos_index_pretrained")
    command = ("objemb", "index", str(photos), "-o", str(index), "--model", str(model), "--prune")
    code = _run(*command)
    if code not in (0, SKIPPED):
        raise StepFailedError(f"index your photos: expected exit code 0 or {SKIPPED}, found {code} from: {command}")
    answers = list(itertools.islice(_answers(photos, load_model(model), Index.open(index)), QUERIES))
    page = output / "photos.html"
    write_whole(page, photos_page(photos.name, about, answers))
    return page


def _run(*command: str) -> int:
    note(f"$ {' '.join(command)}")
    return run_command(command)


def _answers(photos: Path, model: Model, index: Index) -> Iterator[Answer]:
    """Searches for the object with the highest score in each of some evenly spaced photos."""
    refs = [ref for ref in find_images(photos) if isinstance(ref, ImageRef)]
    paths = {ref.id: ref.path for ref in refs}
    for ref in _spread(refs):
        detections = model.detect(ref.path)
        if not len(detections):
            continue
        query = expect_vectors("demo", model.query(ref.path, detections[:1].boxes.tolist()))
        result = search_others(index, query, (ref.id,))
        (shown,), hits = result_pictures(result, [ref.path], paths.get)
        yield Answer(result, shown, hits, right=())


def _spread(refs: list[ImageRef]) -> Iterator[ImageRef]:
    """All photos, ordered so that the first ones are evenly spaced, then those next to them, and so on."""
    step = max(1, len(refs) // QUERIES)
    return (refs[n] for start in range(step) for n in range(start, len(refs), step))
