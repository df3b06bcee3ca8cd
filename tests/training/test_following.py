from __future__ import annotations

import pytest
import torch

from objemb.ops.normalize import l2
from objemb.training.following import Following, figures, follow
from objemb.training.teacher import Teacher
from tests.training.learners import TEACHER, Noisy, task


def made() -> Following:
    """Four boxes in two photos of 1000 x 100 pixels; the student is right on two of them."""
    teacher = torch.eye(4)
    student = torch.stack([teacher[0], teacher[1], l2(torch.tensor([[0.0, 0, 3, 4]]))[0], teacher[0]])
    areas = torch.tensor([100.0, 1024, 5000, 50_000])
    return Following(student, teacher, areas, areas / 100_000, torch.tensor([0, 0, -1, -1]), torch.tensor([0, 1, 0, 1]))


def test_cosines_by_size() -> None:
    found = made()
    assert found.cosines.tolist() == pytest.approx([1, 1, 0.6, 0])
    assert found.cosine_by_size() == {
        "all": (pytest.approx(0.65), 4),
        "small": (1.0, 2),  # 1024 is 32 x 32: as large as small ones get
        "medium": (pytest.approx(0.6), 1),
        "large": (0.0, 1),
    }
    assert found.cosine_by_share() == {
        "0 % to 1 %": (1.0, 1),
        "1 % to 3 %": (1.0, 1),
        "3 % to 10 %": (pytest.approx(0.6), 1),
        "30 % to 100 %": (0.0, 1),
    }


def test_who_asks_and_who_has_indexed() -> None:
    """Box 0 and box 1 are one thing: the teacher's vectors of them are no nearer than those of others."""
    vectors = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [0.6, 0.8]])
    instances, images = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    same = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    found = Following(same, vectors, torch.ones(4), torch.ones(4), instances, images)
    assert found.retrieval()["P@1"] == 1
    assert found.retrieval("teacher", "teacher")["P@1"] == 0.5
    # boxes 0 and 2 ask photo 1 and find each other's partner first, boxes 1 and 3 ask photo 0 and find their own
    assert found.retrieval("student", "teacher")["P@1"] == 0.5
    assert found.retrieval("teacher", "student")["queries"] == 4


def test_both_describe_the_same_boxes() -> None:
    examples, distill = Noisy(), task()
    found = follow(distill.describer, distill.teacher, examples)
    assert len(found.student) == len(found.teacher) == 0 + 0 + 1 + 2, "boxes without area are left out"
    assert found.images.tolist() == [2, 3, 3]
    assert found.instances.tolist() == [0, 0, 1]
    photo, boxes = examples[3].photo, examples[3].regions[:2]
    assert torch.allclose(found.teacher[1:], distill.teacher.vectors([photo], [boxes])[0])
    assert torch.allclose(found.student[1:], distill.describer.describe([photo], [boxes])[0].vectors, atol=1e-5)


def test_a_teacher_follows_itself() -> None:
    teacher = Teacher.open(TEACHER)
    assert figures(follow(teacher._describer, teacher, Noisy()))["cosine"] == pytest.approx(1)


def test_nothing_to_compare() -> None:
    distill = task()
    assert figures(follow(distill.describer, distill.teacher, Noisy(count=1))) == {"cosine": 0.0}
