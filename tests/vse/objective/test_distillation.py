"""Distillation against values worked out by hand."""

import pytest
import torch

from vse.objective.distillation import distill


def test_distillation() -> None:
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    teacher = torch.tensor([[6.0, 8.0], [0.0, 2.0]])
    assert distill(student, teacher, kind="cosine").item() == pytest.approx(0.5)
    assert distill(student, teacher, kind="l1").item() == pytest.approx((3 + 4 + 1 + 2) / 4)
    assert distill(student, teacher, kind="l2").item() == pytest.approx((9 + 16 + 1 + 4) / 4)
    total = distill(student, teacher, kind="cosine", reduction="sum")
    assert total.item() == pytest.approx(1.0)


def test_distillation_does_not_train_the_teacher() -> None:
    teacher = torch.randn(2, 3, requires_grad=True)
    student = torch.randn(2, 3, requires_grad=True)
    distill(student, teacher, kind="l2").backward()
    assert teacher.grad is None and student.grad is not None
