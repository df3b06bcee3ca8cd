"""Models from networks of Detectron2 with an embedding head, and such networks from models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from objemb.describers.capabilities import BoxEmbedder
from objemb.detectors.detectron2_rcnn import Detectron2Rcnn
from objemb.disk import replacing_folder
from objemb.models.model import Model


def settings_of(
    config_file: str | Path, weights: str | Path, *, classes: Sequence[str] | None = None, opts: Sequence[object] = ()
) -> tuple[dict[str, object], dict[str, str]]:
    """Settings of a model that gives the boxes, scores and vectors of a network of Detectron2, for
    :func:`objemb.models.build_model`.

    Args:
        config_file: Its config, such as the ``config.yaml`` of a training.
        weights: Its weights, such as ``model_final.pth``.
        classes: Names of its classes; None for those in the config.
        opts: Overrides of the config: key, value, key, value ...

    Returns:
        The settings, and by part where it comes from.

    Raises:
        ImportError: Detectron2 is not installed.
        FileNotFoundError, ValueError: The config is none of such a network.
        MissingWeightsError, UnreadableWeightsError: The weights cannot be read.
    """
    Detectron2Rcnn.expect_installed()
    from objemb.detectors._detectron2_exchange import one_pass_settings

    describer, origins = one_pass_settings(config_file, weights, classes, opts)
    return {"describer": describer, "aggregator": {"name": "keep"}}, origins


def write_detectron2(model: Model, folder: str | Path, *, windows_from_input: bool = False) -> Path:
    """Write a model as Detectron2 opens it: ``config.yaml`` and ``model_final.pth`` in a new folder.

    ::

        predictor = DefaultPredictor(embedding_config("folder/config.yaml"))
        predictor(image)["instances"].pred_embeddings

    Boxes, scores and vectors are those of the model.

    Args:
        model: The model.
        folder: The folder to create.
        windows_from_input: Whether a model that cuts windows from the photo may be written. Detectron2 cuts them from
            the network's input, so that vectors of objects of other sizes than ``object_side`` differ.

    Raises:
        ImportError: Detectron2 is not installed.
        ValueError: The model has parts that Detectron2 does not have: it needs to be a ``one_pass`` with a
            ``detectron2_rcnn``, without whitening, whose windows are cut from the network's input.
        FileExistsError: The folder exists.
    """
    describer = model.describer
    if not isinstance(describer, BoxEmbedder) or not isinstance(describer.detector, Detectron2Rcnn):
        detector = describer.detector
        found = type(describer if detector is None else detector).__name__
        raise ValueError(
            "model: expected a one_pass with the detector detectron2_rcnn, which alone has a form in Detectron2, found "
            f"{found}; train one with tools/train_detectron2.py, with this model as its teacher"
        )
    if describer.whitening is not None:
        raise ValueError(
            "model: expected one without whitening, which Detectron2 does not have, found one; distil a student of it "
            "with tools/train_detectron2.py"
        )
    settings = model.settings["describer"]
    from_photo = settings["object_side"] is not None and settings.get("windows_from", "photo") == "photo"
    if from_photo and not windows_from_input:
        raise ValueError(
            "model: expected describer.windows_from input, as in Detectron2, which sees the photo only as the network "
            "does, found photo, which gives other vectors; train with describer.windows_from=input, or accept this "
            "with --windows-from-input (windows_from_input=True), and build the model of equal vectors from what is "
            "written: objemb model build detectron2"
        )
    if describer.detector.cfg is None:
        raise ValueError(
            "model: expected a detector whose config is YAML, found one whose config is a program: load the program in "
            "Detectron2, call add_embedding_head_lazy_config on it, and load the weights that the training left"
        )
    from objemb.detectors._detectron2_exchange import write

    target = Path(folder)
    if target.exists():
        raise FileExistsError(f"{target}: expected a new folder, found an existing one")
    with replacing_folder(target, keep=True) as partial:
        detector = describer.detector
        write(detector.cfg, detector.network, describer.head, settings, partial)
    return target
