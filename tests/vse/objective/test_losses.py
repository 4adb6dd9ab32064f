"""Losses against matrices worked out by hand."""

import math

import pytest
import torch

from vse.objective.alignment import (
    collapsed_hinge,
    collapsed_infonce,
    cosine_scores,
    hinge,
    infonce,
    siglip,
)
from vse.objective.distillation import distill_image

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
    loss = infonce(torch.full((4, 4), 0.3) / 0.07, image)
    assert collapsed_infonce(image).item() == pytest.approx(loss.item(), abs=1e-6)
    if index == [0, 1, 2, 3]:
        assert loss.item() == pytest.approx(math.log(4))


def test_infonce() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.5]]) / 0.5
    by_row = [math.log(1 + math.exp(-2)), math.log(2)]
    by_column = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1))]
    expected = (sum(by_row) / 2 + sum(by_column) / 2) / 2
    assert infonce(scores, torch.arange(2)).item() == pytest.approx(expected)


def test_infonce_passes_over_pairs_of_the_same_image() -> None:
    index = torch.tensor([3, 3, 8])
    scores = SCORES.clone()
    found = infonce(scores, index)
    scores[0, 1] = scores[1, 0] = 50.0
    assert infonce(scores, index).item() == pytest.approx(found.item())
    only = infonce(SCORES[:2, :2], torch.tensor([1, 1]))
    assert only.item() == pytest.approx(0.0)


def test_siglip() -> None:
    scores = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    terms = [1.0, 0.0, -2.0, -1.0]  # sign * logit, row by row
    expected = sum(math.log(1 + math.exp(-x)) for x in terms) / 2
    assert siglip(scores, torch.arange(2)).item() == pytest.approx(expected)
    expected = sum(math.log(1 + math.exp(-x)) for x in (1.0, -1.0)) / 2
    assert siglip(scores, torch.tensor([0, 0])).item() == pytest.approx(expected)


def test_scores_are_cosines_even_under_autocast() -> None:
    v, t = torch.randn(4, 64), 20 * torch.randn(4, 64)
    expected = torch.nn.functional.cosine_similarity(v[:, None], t[None], dim=-1)
    torch.testing.assert_close(cosine_scores(v, t), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosine_scores(v, t)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def some_scores(texts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines of 4 images, the second and the last the same one, with `texts` texts each."""
    generator = torch.Generator().manual_seed(texts)
    return 2 * torch.rand(4, 4 * texts, generator=generator) - 1, torch.tensor([3, 5, 8, 5])


Pair = tuple[float, list[float], list[float]]


def pairs(scores: torch.Tensor, index: torch.Tensor) -> list[Pair]:
    """For each text its own cosine, its image's with other images' texts, its own with those."""
    texts = scores.shape[1] // scores.shape[0]
    found = []
    for m in range(scores.shape[1]):
        own = m // texts
        others = [n for n in range(scores.shape[1]) if index[n // texts] != index[own]]
        images = [b for b in range(len(scores)) if index[b] != index[own]]
        by_image = [scores[own, n].item() for n in others]
        found.append((scores[own, m].item(), by_image, [scores[b, m].item() for b in images]))
    return found


@pytest.mark.parametrize("texts", [1, 2, 3])
@pytest.mark.parametrize("hardest", [True, False])
def test_hinge_with_several_texts_an_image(texts: int, hardest: bool) -> None:
    scores, index = some_scores(texts)
    take = max if hardest else sum
    expected = sum(
        take(max(0.0, 0.2 + other - own) for other in side)
        for own, *sides in pairs(scores, index)
        for side in sides
    )
    found = hinge(scores, index, margin=0.2, hardest=hardest)
    assert found.item() == pytest.approx(expected / texts, rel=1e-5)
    mean = hinge(scores, index, margin=0.2, hardest=hardest, reduction="mean")
    assert mean.item() == pytest.approx(expected / texts / 4, rel=1e-5)
    alike = torch.full_like(scores, 0.4)
    collapsed = collapsed_hinge(index, margin=0.2, hardest=hardest, texts=texts)
    assert collapsed.item() == pytest.approx(
        hinge(alike, index, margin=0.2, hardest=hardest).item(), rel=1e-5
    )


@pytest.mark.parametrize("texts", [1, 2, 3])
def test_infonce_with_several_texts_an_image(texts: int) -> None:
    scores, index = some_scores(texts)
    terms = [
        math.log(sum(math.exp(2 * x) for x in (own, *side))) - 2 * own
        for own, *sides in pairs(scores, index)
        for side in sides
    ]
    assert infonce(scores / 0.5, index).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    alike = infonce(torch.full_like(scores, 0.8), index)
    assert collapsed_infonce(index, texts=texts).item() == pytest.approx(alike.item(), rel=1e-5)


@pytest.mark.parametrize("texts", [1, 2, 3])
@pytest.mark.parametrize("positives", ["supcon", "milnce"])
def test_infonce_with_the_positives_in_one_softmax(texts: int, positives: str) -> None:
    """Written out: no text of the image itself is a negative, nor another image's of that index."""
    scores, index = some_scores(texts)
    logits = (scores / 0.5).double()
    by_image = []
    for image in range(4):
        others = [n for n in range(4 * texts) if index[n // texts] != index[image]]
        own = [math.exp(logits[image, m]) for m in range(texts * image, texts * (image + 1))]
        total = sum(own) + sum(math.exp(logits[image, n]) for n in others)
        if positives == "supcon":
            by_image.append(-sum(math.log(part / total) for part in own) / texts)
        else:
            by_image.append(-math.log(sum(own) / total))
    by_text = [
        math.log(sum(math.exp(2 * x) for x in (own, *side))) - 2 * own
        for own, _, side in pairs(scores, index)
    ]
    expected = (sum(by_image) / 4 + sum(by_text) / len(by_text)) / 2
    found = infonce(logits, index, positives=positives)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    if texts == 1:
        assert found.item() == pytest.approx(infonce(logits, index).item(), rel=1e-9)
    else:
        assert abs(found.item() - infonce(logits, index).item()) > 1e-3
    alike = infonce(torch.full_like(logits, 0.8), index, positives=positives)
    collapsed = collapsed_infonce(index, texts=texts, positives=positives)
    assert collapsed.item() == pytest.approx(alike.item(), rel=1e-5)


@pytest.mark.parametrize("texts", [1, 2, 3])
def test_siglip_with_several_texts_an_image(texts: int) -> None:
    scores, index = some_scores(texts)
    expected = 0.0
    for own, _, by_text in pairs(scores, index):
        expected += math.log(1 + math.exp(10 - 10 * own))
        expected += sum(math.log(1 + math.exp(10 * other - 10)) for other in by_text)
    found = siglip(10 * scores - 10, index).item()
    assert found == pytest.approx(expected / scores.shape[1], rel=1e-5)


def test_distillation_on_the_image_side() -> None:
    v = torch.tensor([[3.0, 4.0], [1.0, 0.0]], requires_grad=True)
    target = torch.tensor([[6.0, 8.0], [0.0, 2.0]], requires_grad=True)
    loss = distill_image(v, target)
    assert loss.item() == pytest.approx(0.5)
    loss.backward()
    assert target.grad is None and v.grad is not None
