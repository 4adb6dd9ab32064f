"""Distillation against values worked out by hand and against naive twins."""

import math

import pytest
import torch
from torch import Tensor

from vse.objective import distill

RELATIONS = ("relations-kl", "relations-huber")
INDEX = torch.tensor([0, 1, 2, 1, 4])  # the texts in rows 1 and 3 are of one image


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


def some_pair() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return 20 * torch.randn(5, 6), 20 * torch.randn(5, 6)


def cosine(x: Tensor, i: int, j: int) -> float:
    return float(x[i] @ x[j] / (x[i].norm() * x[j].norm()))


def others(i: int) -> list[int]:
    return [j for j in range(len(INDEX)) if INDEX[j] != INDEX[i]]


def test_relations_as_distributions_equal_the_naive_kl() -> None:
    student, teacher = some_pair()
    expected = 0.0
    for i in range(5):
        p, q = (
            torch.tensor([cosine(x, i, j) / 0.2 for j in others(i)]).softmax(0).tolist()
            for x in (teacher, student)
        )
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 5
    found = distill(student, teacher, kind="relations-kl", image_index=INDEX, temperature=0.2)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_relations_as_distances_equal_the_naive_huber() -> None:
    student, teacher = some_pair()
    pairs = [(i, j) for i in range(5) for j in others(i)]
    distances = []
    for x in (student, teacher):
        raw = [math.sqrt(2 - 2 * cosine(x, i, j)) for i, j in pairs]
        distances.append([d / (sum(raw) / len(raw)) for d in raw])
    gaps = [abs(a - b) for a, b in zip(*distances, strict=True)]
    expected = sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps) / len(gaps)
    found = distill(student, teacher, kind="relations-huber", image_index=INDEX)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    total = distill(student, teacher, kind="relations-huber", image_index=INDEX, reduction="sum")
    assert total.item() == pytest.approx(5 * expected, rel=1e-4)


@pytest.mark.parametrize("kind", RELATIONS)
def test_relations_ask_for_no_more_than_relations(kind: str) -> None:
    student, _ = some_pair()
    turned = 3 * student @ torch.linalg.qr(torch.randn(6, 6)).Q
    assert distill(student, turned, kind=kind).item() == pytest.approx(0, abs=1e-5)
    assert distill(student, turned, kind="cosine").item() > 0.1


@pytest.mark.parametrize("kind", RELATIONS)
@pytest.mark.parametrize("index", [[0, 1, 2, 3, 4], [0, 0, 1, 1, 1], [7, 7, 7, 7, 7]])
def test_relations_have_a_gradient_even_where_texts_agree(kind: str, index: list[int]) -> None:
    student, teacher = some_pair()
    student[1] = student[0]
    student.requires_grad_()
    loss = distill(student, teacher, kind=kind, image_index=torch.tensor(index))
    loss.backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()
    assert bool(student.grad.any()) is (len(set(index)) > 1)
