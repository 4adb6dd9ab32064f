"""Losses against matrices worked out by hand."""

import math

import pytest
import torch

from vse.losses import (
    InfoNCE,
    SigLIP,
    collapsed_hinge,
    collapsed_infonce,
    cosine_scores,
    hinge,
)

SCORES = torch.tensor([[0.9, 0.8, 0.1], [0.3, 0.5, 0.6], [0.2, 0.4, 0.7]])
DISTINCT = torch.arange(3)


def test_hinge_over_all_negatives() -> None:
    # rows: [.2 + .8 - .9] = .1, 0 | 0, [.2 + .6 - .5] = .3 | 0, 0
    # columns: 0, 0 | [.2 + .8 - .5] = .5, [.2 + .4 - .5] = .1 | 0, [.2 + .6 - .7] = .1
    loss = hinge(SCORES, DISTINCT, margin=0.2, hardest=False)
    assert loss.item() == pytest.approx(0.1 + 0.3 + 0.5 + 0.1 + 0.1)


def test_hinge_of_the_hardest_negatives() -> None:
    loss = hinge(SCORES, DISTINCT, margin=0.2, hardest=True)
    assert loss.item() == pytest.approx(0.1 + 0.3 + 0.0 + 0.0 + 0.5 + 0.1)
    mean = hinge(SCORES, DISTINCT, margin=0.2, hardest=True, reduction="mean")
    assert mean.item() == pytest.approx(1.0 / 3)


def test_hinge_passes_over_pairs_of_the_same_image() -> None:
    index = torch.tensor([4, 4, 7])
    # Left of row 0: s02; row 1: s12 = .3; row 2: s20, s21. Columns: s20; s21 = .1; s02, s12 = .1.
    assert hinge(SCORES, index, margin=0.2, hardest=False).item() == pytest.approx(0.3 + 0.1 + 0.1)
    assert hinge(SCORES, index, margin=0.2, hardest=True).item() == pytest.approx(0.3 + 0.1 + 0.1)


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("index", [[0, 1, 2, 3], [0, 0, 1, 2], [5, 5, 5, 5]])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_collapsed_value_is_the_hinge_of_equal_scores(
    hardest: bool, index: list[int], reduction: str
) -> None:
    image = torch.tensor(index)
    found = collapsed_hinge(image, margin=0.2, hardest=hardest, reduction=reduction)
    loss = hinge(torch.full((4, 4), 0.3), image, margin=0.2, hardest=hardest, reduction=reduction)
    assert found.item() == pytest.approx(loss.item(), abs=1e-6)
    if hardest and index == [0, 1, 2, 3] and reduction == "sum":
        assert found.item() == pytest.approx(2 * 4 * 0.2)


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [0, 0, 1, 2], [5, 5, 5, 5]])
def test_collapsed_value_is_the_infonce_of_equal_scores(index: list[int]) -> None:
    image = torch.tensor(index)
    loss = InfoNCE(temperature=0.07)(torch.full((4, 4), 0.3), image)
    assert collapsed_infonce(image).item() == pytest.approx(loss.item(), abs=1e-6)
    if index == [0, 1, 2, 3]:
        assert loss.item() == pytest.approx(math.log(4))


def test_infonce() -> None:
    loss = InfoNCE(temperature=0.5)
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    by_row = [math.log(1 + math.exp(-2)), math.log(2)]
    by_column = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1))]
    expected = (sum(by_row) / 2 + sum(by_column) / 2) / 2
    assert loss(scores, torch.arange(2)).item() == pytest.approx(expected)
    assert [name for name, _ in loss.named_parameters()] == ["log_scale"]


def test_infonce_passes_over_pairs_of_the_same_image() -> None:
    loss = InfoNCE(temperature=1.0)
    index = torch.tensor([3, 3, 8])
    scores = SCORES.clone()
    found = loss(scores, index)
    scores[0, 1] = scores[1, 0] = 50.0
    assert loss(scores, index).item() == pytest.approx(found.item())
    only = loss(SCORES[:2, :2], torch.tensor([1, 1]))
    assert only.item() == pytest.approx(0.0)


def test_siglip() -> None:
    loss = SigLIP()
    with torch.no_grad():
        loss.log_scale.fill_(0.0)
        loss.bias.fill_(0.0)
    scores = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    terms = [1.0, 0.0, -2.0, -1.0]  # sign * logit, row by row
    expected = sum(math.log(1 + math.exp(-x)) for x in terms) / 2
    assert loss(scores, torch.arange(2)).item() == pytest.approx(expected)
    expected = sum(math.log(1 + math.exp(-x)) for x in (1.0, -1.0)) / 2
    assert loss(scores, torch.tensor([0, 0])).item() == pytest.approx(expected)


def test_scores_are_cosines_even_under_autocast() -> None:
    v, t = torch.randn(4, 64), 20 * torch.randn(4, 64)
    expected = torch.nn.functional.cosine_similarity(v[:, None], t[None], dim=-1)
    torch.testing.assert_close(cosine_scores(v, t), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosine_scores(v, t)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
