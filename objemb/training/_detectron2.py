"""Training in Detectron2: its trainer with a teacher, an evaluator, and steps that a resumed run repeats exactly.

This module needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

import copy
import logging
import random
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast
from unittest.mock import patch

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.datasets.coco import load_coco_json
from detectron2.engine import DefaultTrainer, create_ddp_model, defaults, launch
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from objemb.coco.files import DISTRACTOR
from objemb.detectors._detectron2_boxes import described
from objemb.detectors._detectron2_exchange import read_checkpoint
from objemb.detectors.detectron2_rcnn import TeacherMapper, embedding_config
from objemb.disk import replacing
from objemb.evaluation.sizes import side_shares, size_classes
from objemb.heads.base import Head
from objemb.images import read_photo
from objemb.ops.boxes import clip, scale
from objemb.structures import Regions
from objemb.training.comparison import Comparison
from objemb.training.data.base import NO_INSTANCE
from objemb.training.teacher import Teacher

#: Key of the instance of an annotation, in COCO files written by ``objemb prepare-data``.
INSTANCE = "instance"

logger = logging.getLogger(__name__)


def register_coco(name: str, file: str | Path, images: str | Path) -> list[str]:
    """Register a COCO file as a data set of Detectron2, with the instances of its annotations.

    Returns:
        Names of its classes.
    """
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, lambda: load_coco_json(str(file), str(images), name, [INSTANCE]))
        MetadataCatalog.get(name).set(json_file=str(file), image_root=str(images), evaluator_type="coco")
    DatasetCatalog.get(name)  # which sets the names of the classes
    return [str(label) for label in MetadataCatalog.get(name).thing_classes]


class EmbeddingEvaluator(DatasetEvaluator):  # type: ignore[misc]  # no types
    """Compares the vectors of a network with those of its teacher on the true boxes of a data set.

    The cosine by size of the object, and mAP and P@1 where annotations carry an ``instance``: each such box searches
    for those in other photos (:func:`objemb.evaluation.instances.instance_retrieval`). For Detectron2's
    ``inference_on_dataset``, beside its own evaluators.

    Args:
        dataset_name: A registered data set with boxes.
        network: The network with an embedding head, in eval mode.
        teacher: The teacher.
    """

    def __init__(self, dataset_name: str, network: torch.nn.Module, teacher: Teacher) -> None:
        self.network = network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network
        self.teacher = teacher
        entries = DatasetCatalog.get(dataset_name)
        self._truth = {entry["image_id"]: (number, entry) for number, entry in enumerate(entries)}
        names = {str(a[INSTANCE]) for entry in entries for a in entry["annotations"] if _instance(a) is not None}
        self._instances = {name: number for number, name in enumerate(sorted(names))}
        self._rows: list[dict[str, Tensor]] = []

    def reset(self) -> None:
        """See ``DatasetEvaluator.reset``."""
        self._rows = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: object) -> None:
        """Describe the true boxes of some images; see ``DatasetEvaluator.process``."""
        del outputs
        for sent in inputs:
            number, entry = self._truth[sent["image_id"]]
            annotations = [a for a in entry["annotations"] if not a.get("iscrowd", 0)]
            edges = np.array([a["bbox"] for a in annotations], dtype=np.float32).reshape(-1, 4)
            edges[:, 2:] += edges[:, :2]
            photo = read_photo(sent["file_name"], id=str(sent["image_id"]))
            true = Regions(clip(torch.from_numpy(edges), photo.size), photo.size)
            shown = true[(true.boxes[:, 2:] - true.boxes[:, :2] >= 1).all(axis=1)]
            kept = [a for a, box in zip(annotations, true.boxes, strict=True) if (box[2:] - box[:2] >= 1).all()]
            regions = Regions.cat([Regions.whole(photo.size), shown])
            height, width = sent["image"].shape[1:]
            inner = scale(torch.as_tensor(regions.boxes), (height / photo.size[0], width / photo.size[1]))
            student, (teacher,) = (
                described(self.network, sent["image"], inner),
                self.teacher.vectors([photo], [regions]),
            )
            known = [NO_INSTANCE if _instance(a) is None else self._instances[str(a[INSTANCE])] for a in kept]
            self._rows.append(
                {
                    "student": student[1:],
                    "teacher": teacher[1:],
                    "whole_photos": (student[:1] * teacher[:1]).sum(dim=1),
                    "sizes": torch.from_numpy(size_classes(side_shares(shown.boxes, photo.size))),
                    "instances": torch.tensor(known, dtype=torch.int64),
                    "images": torch.full((len(kept),), number),
                }
            )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"embedding": {"cosine": ..., "cosine_9_19": ..., "mAP": ...}}``, 0 to 1, on the main process."""
        gathered = comm.gather(self._rows, dst=0)
        if not comm.is_main_process():
            return None
        rows = [row for of_rank in gathered for row in of_rank]
        if not any(len(row["student"]) for row in rows):
            return {"embedding": {}}
        joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return {"embedding": Comparison(**joined).figures()}


class Trainer(DefaultTrainer):  # type: ignore[misc]  # no types
    """Detectron2's trainer for networks with an embedding head.

    The images and all randomness of a step depend on the seed and the number of the step only, so that a resumed run
    ends with the weights of one that was not interrupted, if it runs on the same number of processes of CPUs. For this,
    images are not grouped by aspect ratio.

    Attributes:
        teacher: The teacher, or None to train or evaluate a network without one.
    """

    teacher: ClassVar[Teacher | None] = None

    def __init__(self, cfg: CfgNode) -> None:
        with _ddp_on(cfg.MODEL.DEVICE):
            super().__init__(cfg)

    def build_hooks(self) -> list[object]:
        """See ``DefaultTrainer.build_hooks``; checkpoints are written atomically."""
        self.checkpointer = Checkpointer(self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        hooks: list[object] = super().build_hooks()
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """See ``DefaultTrainer.resume_or_load``; the images go on at the step of the checkpoint."""
        super().resume_or_load(resume)
        self.data_loader.batch_sampler.start = self.start_iter

    @property
    def figures(self) -> dict[str, Any]:
        """The results of the last evaluation; empty if there was none."""
        return dict(self.__dict__.get("_last_eval_results") or {})

    def run_step(self) -> None:
        """A step, whose randomness depends on its number only."""
        torch.manual_seed((self.cfg.SEED + 1) * 1_000_003 + self.iter * comm.get_world_size() + comm.get_rank())
        super().run_step()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """See ``DefaultTrainer.build_model``; a tail begins with the teacher's layers."""
        network: torch.nn.Module = super().build_model(cfg)
        if cls.teacher is not None and cfg.MODEL.ROI_EMBEDDING_HEAD.NAME == "tail":
            cls.teacher.start(cast(Head, network.get_submodule("roi_heads.embedding_head")))
        return network

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader[Any]:
        """Batches of images with the teacher's vectors of their boxes."""
        mapper: Any = DatasetMapper(cfg, is_train=True)
        if cls.teacher is not None:
            mapper = TeacherMapper(mapper, cls.teacher, cfg.INPUT.FORMAT)
        entries = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
        steps = Steps(len(entries), cfg.SOLVER.IMS_PER_BATCH, cfg.SEED)
        return DataLoader(
            Drawn(entries, mapper, cfg.SEED),
            batch_sampler=steps,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=list,
            generator=torch.Generator().manual_seed(cfg.SEED),  # not the one that steps draw from
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> object:
        """See ``DefaultTrainer.build_test_loader``."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """See ``DefaultTrainer.test``: COCO's metrics, and those of the vectors if there is a teacher."""
        if evaluators is None:
            evaluators = [cls.evaluators(cfg, name, model) for name in cfg.DATASETS.TEST]
        results: dict[str, Any] = super().test(cfg, model, evaluators)
        return results

    @classmethod
    def evaluators(cls, cfg: CfgNode, dataset_name: str, model: torch.nn.Module) -> DatasetEvaluators:
        """The evaluators of a data set."""
        folder = str(Path(cfg.OUTPUT_DIR) / "inference" / dataset_name)
        several: list[DatasetEvaluator] = [COCOEvaluator(dataset_name, output_dir=folder)]
        if cls.teacher is not None:
            several.append(EmbeddingEvaluator(dataset_name, model, cls.teacher))
        return DatasetEvaluators(several)


class Steps(Sampler[list[tuple[int, int]]]):
    """The images of each step: a shuffle of all images after the other, dealt to the processes.

    Args:
        count: Number of images.
        batch: Images of a step in all processes together.
        seed: Seed of the shuffles.

    Attributes:
        start: The first step.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count == 0:
            raise ValueError("DATASETS.TRAIN: expected images with boxes, found none")
        self.count, self.batch, self.seed, self.start = count, batch, seed, 0
        self.rank, self.world = comm.get_rank(), comm.get_world_size()
        if batch % self.world:
            raise ValueError(f"SOLVER.IMS_PER_BATCH: expected a multiple of {self.world} processes, found {batch}")

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Number of the draw and index of the image, for each image of a step, for ever."""
        step, own = self.start, self.batch // self.world
        order: tuple[int, Tensor] = (-1, torch.empty(0))
        while True:
            draws = []
            for draw in range(step * self.batch + self.rank * own, step * self.batch + (self.rank + 1) * own):
                epoch = draw // self.count
                if order[0] != epoch:
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    order = epoch, torch.randperm(self.count, generator=generator)
                draws.append((draw, int(order[1][draw % self.count])))
            yield draws
            step += 1


class Drawn(Dataset[Any]):
    """Images by the number of their draw, which is the seed of their augmentation."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], mapper: Any, seed: int) -> None:
        self.entries, self.mapper, self.seed = entries, mapper, seed

    def __getitem__(self, drawn: tuple[int, int]) -> Any:
        draw, index = drawn
        seed = (self.seed * 1_000_003 + draw) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        try:
            return self.mapper(copy.deepcopy(self.entries[index]))
        finally:
            torch.set_rng_state(state)


class Checkpointer(DetectionCheckpointer):  # type: ignore[misc]  # no types
    """Detectron2's checkpointer, which leaves whole files when it is killed, and executes nothing that it reads."""

    def save(self, name: str, **kwargs: object) -> None:
        """See ``Checkpointer.save``."""
        if not self.save_dir or not self.save_to_disk:
            return
        parts = {"model": self.model.state_dict(), **{k: v.state_dict() for k, v in self.checkpointables.items()}}
        file = Path(self.save_dir) / f"{name}.pth"
        logger.info("saving checkpoint %s", file)
        with replacing(file) as partial:
            torch.save({**parts, **kwargs}, partial)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """See ``Checkpointer.tag_last_checkpoint``."""
        with replacing(Path(self.save_dir) / "last_checkpoint") as partial:
            partial.write_text(last_filename_basename, encoding="utf-8")

    def _load_file(self, filename: str) -> dict[str, object]:
        return read_checkpoint(filename)


def evaluate(cfg: CfgNode, trainer: type[Trainer]) -> dict[str, Any]:
    """Evaluate the weights of a config, for ``--eval-only``."""
    network = trainer.build_model(cfg)
    Checkpointer(network, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    return trainer.test(cfg, network)


def _instance(annotation: Mapping[str, Any]) -> str | None:
    value = annotation.get(INSTANCE)
    return value if isinstance(value, str) and value != DISTRACTOR else None


@contextmanager
def _ddp_on(device: str) -> Iterator[None]:
    """Let Detectron2 make a distributed network on CPUs: it always names a GPU."""
    if device != "cpu":
        yield
        return

    def on_cpus(model: torch.nn.Module, **kwargs: object) -> object:
        return create_ddp_model(model, **{**kwargs, "device_ids": None})

    with patch.object(defaults, "create_ddp_model", on_cpus):
        yield


def run_on(processes: int, function: Callable[..., object], args: tuple[object, ...]) -> None:
    """Run a function in one or several processes of this machine, by Detectron2's ``launch``."""
    launch(function, processes, dist_url="auto", args=args)


def prepared(
    args: object,
    config_file: str | Path,
    opts: Sequence[object],
    *,
    teacher: Path | None,
    train: Path | None,
    test: Path | None,
    images: Path | None,
) -> tuple[CfgNode, type[Trainer]]:
    """The config and the trainer of a run; the data sets are registered.

    Args:
        args: Options of the command line, which Detectron2 logs.
        config_file: The config.
        opts: Overrides: key, value, key, value ...
        teacher: Model folder of the teacher; None to train without one, if ``LOSS_WEIGHT`` is 0, or to evaluate.
        train: COCO file to train on; None for ``DATASETS.TRAIN``.
        test: COCO file to evaluate on; None for ``DATASETS.TEST``.
        images: Folder of the photos; None for those of the files.

    Raises:
        ValueError: The vectors of teacher and head differ in length, or the config does not fit.
    """
    cfg = embedding_config(config_file, opts)
    node = cfg.MODEL.ROI_EMBEDDING_HEAD
    for key, file in (("TRAIN", train), ("TEST", test)):
        if file is not None:
            name = f"{key.lower()}_{file.stem}"
            classes = register_coco(name, file, images or file.parent)
            cfg.DATASETS[key] = (name,)
            if key == "TRAIN":
                cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    if cfg.DATASETS.TRAIN:
        DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
        node.CLASSES = [str(name) for name in MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", [])]
    opened = None
    if teacher is not None:
        opened = Teacher.open(teacher)
        _follow(node, opened)
    if cfg.SEED < 0:
        cfg.SEED = 0
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    defaults.default_setup(cfg, args)
    return cfg, type("TrainerWithTeacher", (Trainer,), {"teacher": opened})


def trained(cfg: CfgNode, trainer: type[Trainer], *, resume: bool, only_evaluate: bool) -> dict[str, Any]:
    """Train, or only evaluate; the figures of the last evaluation, empty if there was none."""
    if only_evaluate:
        return evaluate(cfg, trainer)
    run = trainer(cfg)
    run.resume_or_load(resume=resume)
    run.train()
    return run.figures


def _follow(node: CfgNode, teacher: Teacher) -> None:
    """Take the length of the teacher's vectors, and for a tail its network and pooling."""
    if node.NAME == "tail":
        describer = teacher.settings["describer"]
        for key in ("backbone", "pooling"):
            if not node[key.upper()].name:
                settings = {k: v for k, v in describer[key].items() if v is not None}
                node[key.upper()] = CfgNode(settings, new_allowed=True)
    # without a whitening, the vectors are the pooled ones, and a tail has no linear layer
    node.DIM = teacher.dim if node.NAME != "tail" or teacher.whitened else 0
