"""Opens an index together with the model that made it."""

from __future__ import annotations

from pathlib import Path

from objemb.card import read_card
from objemb.checks import ArtefactMismatchError
from objemb.images.decode import MAX_PIXELS
from objemb.index.collection import ImageCollection
from objemb.index.opening import open_index
from objemb.models.base import EmbeddingModel
from objemb.models.hub import model_folder
from objemb.models.opening import open_model
from objemb.search.kinds import check_model, gives_of
from objemb.search.retrieval import Retrieval


def open_retrieval(
    index: str | Path,
    model: str | Path | EmbeddingModel | None = None,
    *,
    device: str = "cpu",
    precision: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Retrieval:
    """Open an index with its model; available as ``objemb.open``.

    Args:
        index: Where the index lives: a folder, or an address such as ``postgresql://host/db?table=shop``.
        model: A model folder, or ``hf:ORG/NAME``; or a model that is open already, such as one for several indexes.
            None for the model with which the index was made, at its recorded path.
        device: Device of the model, as for :func:`objemb.load`; like the next three not used for an open model.
        precision, runtime, threads: As for :func:`objemb.load`.
        max_pixels: Maximum number of pixels of photos that are opened, as for :class:`Retrieval`.

    Raises:
        FileNotFoundError: There is no model at the recorded path, or no path is recorded in the index.
        ArtefactMismatchError: The index was made with another model; raised before the model is loaded.
        IndexFolderError, DamagedIndexError: As for :meth:`Index.open`.
    """
    opened = open_index(index)
    if isinstance(model, EmbeddingModel):
        return Retrieval(model, opened, max_pixels=max_pixels)
    folder = _recorded_model(opened) if model is None else model_folder(model)
    card = read_card(folder)
    try:
        check_model(opened, gives_of(card), card["settings"], card["fingerprint"])
    except ArtefactMismatchError as error:
        if model is not None:
            raise
        raise ArtefactMismatchError(
            f"{error}; another model was put there since: pass the model of the index (--model, "
            f"model=), or describe the photos anew with it: objemb migrate {index} --model {folder}"
        ) from error
    described_with = open_model(folder, device, precision, runtime=runtime, threads=threads)
    return Retrieval(described_with, opened, max_pixels=max_pixels)


def _recorded_model(index: ImageCollection) -> Path:
    """The recorded folder of the model with which an index was made."""
    path = (index.model or {}).get("path")
    if not isinstance(path, str):
        raise FileNotFoundError(
            "model: expected a model folder, since none is recorded in the index; pass --model (model=)"
        )
    if not Path(path).is_dir():
        raise FileNotFoundError(
            f"model: expected the model of the index at {path}, found nothing; pass --model (model=)"
        )
    return Path(path)
