from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from objemb.ops.tensors import l2
from objemb.structures import Photo, Regions
from objemb.training.comparison import Comparison, compare, counts_classes, detection_metrics
from objemb.training.teacher import Teacher
from tests.training.learners import TEACHER, Noisy, task


def made() -> Comparison:
    """Four boxes in two photos; the student is right on two of them, and half on the whole photos."""
    teacher = torch.eye(4)
    student = torch.stack([teacher[0], teacher[1], l2(torch.tensor([[0.0, 0, 3, 4]]))[0], teacher[0]])
    sizes, whole = torch.tensor([0, 0, 2, 4]), torch.tensor([0.25, 0.75])
    return Comparison(student, teacher, whole, sizes, torch.tensor([0, 0, -1, -1]), torch.tensor([0, 1, 0, 1]))


def test_cosines_by_size() -> None:
    found = made()
    assert found.cosines.tolist() == pytest.approx([1, 1, 0.6, 0])
    assert found.cosine_by_size() == {
        "all": (pytest.approx(0.65), 4),
        "<9 %": (1.0, 2),
        "19-38 %": (pytest.approx(0.6), 1),
        ">75 %": (0.0, 1),
        "whole photo": (0.5, 2),
    }
    assert found.figures() == {
        "cosine": pytest.approx(0.65),
        "cosine_under_9": 1.0,
        "cosine_19_38": pytest.approx(0.6),
        "cosine_over_75": 0.0,
        "cosine_whole_photo": 0.5,
        "mAP": pytest.approx(found.retrieval()["mAP"]),
        "P@1": found.retrieval()["P@1"],
    }


def test_retrieval_by_size_of_what_asks_and_of_what_is_found() -> None:
    """Boxes 0 (small) and 1 (large) are one thing in two photos; to the student each is more like another box there."""
    student = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1], [0.8, 0.6]])
    teacher = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    sizes, instances, images = torch.tensor([0, 4, 1, 1]), torch.tensor([0, 0, -1, -1]), torch.tensor([0, 1, 0, 1])
    found = Comparison(student, teacher, torch.ones(2), sizes, instances, images)
    # box 0 asks photo 1: box 3 (.8) comes before box 1 (.6); box 1 asks photo 0: box 2 (.8) before box 0 (.6)
    behind = {"mAP": 0.25, "P@1": 0.0, "queries": 1}
    assert found.retrieval_by_size() == {
        "by_query_size": {"<9 %": behind, ">75 %": behind},
        "by_object_size": {"<9 %": behind, ">75 %": behind},
    }
    first = {"mAP": 1.0, "P@1": 1.0, "queries": 1}
    assert found.retrieval_by_size("teacher", "teacher")["by_object_size"] == {"<9 %": first, ">75 %": first}


def test_who_asks_and_who_has_indexed() -> None:
    """Box 0 and box 1 are one thing: the teacher's vectors of them are no nearer than those of others."""
    vectors = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [0.6, 0.8]])
    instances, images = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    same = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    found = Comparison(same, vectors, torch.ones(2), torch.zeros(4, dtype=torch.int64), instances, images)
    assert found.retrieval()["P@1"] == 1
    assert found.retrieval("teacher", "teacher")["P@1"] == 0.5
    # boxes 0 and 2 ask photo 1 and find each other's partner first, boxes 1 and 3 ask photo 0 and find their own
    assert found.retrieval("student", "teacher")["P@1"] == 0.5
    assert found.retrieval("teacher", "student")["queries"] == 4


def test_both_describe_the_same_boxes() -> None:
    examples, distill = Noisy(), task()
    found = compare(distill.describer, distill.teacher, examples)
    assert len(found.student) == len(found.teacher) == 0 + 0 + 1 + 2, "boxes without area are left out"
    assert found.images.tolist() == [2, 3, 3]
    assert found.instances.tolist() == [0, 0, 1]
    assert found.sizes.tolist() == [3, 3, 3], "32 of 60 pixels"
    whole = [examples[n].photo for n in range(4)]
    boxes = [Regions.whole(photo.size) for photo in whole]
    sides = (
        torch.cat(distill.teacher.vectors(whole, boxes)),
        torch.cat([torch.as_tensor(r.vectors) for r in distill.describer.describe(whole, boxes)]),
    )
    assert torch.allclose(found.whole_photos, (sides[0] * sides[1]).sum(dim=1), atol=1e-5)
    photo, two = examples[3].photo, examples[3].regions[:2]
    assert torch.allclose(found.teacher[1:], distill.teacher.vectors([photo], [two])[0])
    assert torch.allclose(
        found.student[1:], torch.as_tensor(distill.describer.describe([photo], [two])[0].vectors), atol=1e-5
    )


def test_a_teacher_follows_itself() -> None:
    teacher = Teacher.open(TEACHER)
    found = compare(teacher._describer, teacher, Noisy()).figures()
    assert (found["cosine"], found["cosine_whole_photo"]) == pytest.approx((1, 1))


def test_nothing_to_compare() -> None:
    distill = task()
    found = compare(distill.describer, distill.teacher, Noisy(count=1)).figures()
    assert (found.keys(), found["cosine"]) == ({"cosine", "cosine_whole_photo"}, 0.0)


class Knows:
    """Finds what is there, as one class or with the classes it is told."""

    def __init__(self, classes: tuple[str, ...], label: int) -> None:
        self.classes, self.num_classes, self.label = classes, max(1, len(classes)), label

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        (photo,) = photos
        truth = Noisy()[int(photo.id.split()[1])].regions
        return [Regions(truth.boxes, truth.size, labels=torch.full((len(truth),), self.label))]


class Two(Noisy):
    classes = ("other", "thing")

    def __getitem__(self, number: int) -> Any:
        example = super().__getitem__(number)
        labels = torch.ones(len(example.regions), dtype=torch.int64)
        regions = Regions(example.regions.boxes, example.photo.size, labels=labels, classes=self.classes)
        return type(example)(example.photo, regions)


def test_labels_count_where_they_are_the_same() -> None:
    wrong, right = Knows(("other", "thing"), 0), Knows(("other", "thing"), 1)
    assert counts_classes(right, Two())  # type: ignore[arg-type]
    assert not counts_classes(Knows(("thing", "other"), 1), Two())  # type: ignore[arg-type]
    found = detection_metrics(right, Two())["AP50"]  # type: ignore[arg-type]
    assert found > 0.3, "half of the boxes have no area: nothing overlaps them"
    assert detection_metrics(wrong, Two())["AP50"] == 0  # type: ignore[arg-type]
    assert detection_metrics(Knows(("thing",), 0), Two())["AP50"] == found  # type: ignore[arg-type]


def test_data_without_labels_have_no_metrics() -> None:
    class Plain(Noisy):
        classes = ()

    assert detection_metrics(task().describer.detector, Plain()) == {}
