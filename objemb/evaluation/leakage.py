"""Whether something was fitted on the very photos on which it is measured."""

from __future__ import annotations

from pathlib import Path

from objemb.evaluation.protocol import EvaluationSet


def fitted_on_evaluation(fitted_on: str, data: EvaluationSet) -> list[str]:
    """Those of the photos, folders or tables named in ``fitted_on`` that hold photos of the set.

    Whitening that has seen the evaluation photos flatters a method, which is worth a warning.

    Args:
        fitted_on: What a whitening says it was fitted on: words, a colon, and paths with commas between them. Relative
            paths are looked up from the current folder.
        data: The set. A folder holds a photo however deep the photo lies in it.
    """
    photos = {data.photo(e.file).resolve() for e in (*data.images, *data.queries)}
    folders = {folder for photo in photos for folder in photo.parents}
    names = [name.strip() for name in fitted_on.rpartition(": ")[2].split(", ")]
    return [name for name in names if name and Path(name).resolve() in photos | folders]
