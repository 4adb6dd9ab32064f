"""How the parts of a loss are put together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.vse.model.test_towers import make_model, some_texts
from vse.model.text_batch import pad_texts
from vse.objective.alignment import align, cosine_scores, hinge
from vse.objective.distillation import distill, distill_image
from vse.objective.stages import DenseStage, JointStage, SparseStage
from vse.recipes import LossConfig
from vse.recipes.settings import DISTILLATIONS
from vse.samples.batches import Batch


def some_batch() -> Batch:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    return Batch(
        torch.from_numpy(pixels), None, some_texts(), torch.tensor([0, 1, 2]), torch.randn(3, 32)
    )


def test_the_hinge_ramps_up_over_all_negatives_then_takes_the_hardest() -> None:
    scores, index = torch.rand(4, 4), torch.arange(4)
    whole = hinge(scores, index, margin=0.2, hardest=False)
    for epoch in (0.0, 0.25, 0.75):
        found = align(scores, index, LossConfig(), epoch=epoch)
        torch.testing.assert_close(found["align"], epoch * whole)
        assert found["collapsed"].item() == pytest.approx(epoch * 2 * 4 * 3 * 0.2)
    found = align(scores, index, LossConfig(), epoch=1.0)
    torch.testing.assert_close(found["align"], hinge(scores, index, margin=0.2, hardest=True))


@pytest.mark.parametrize("kind", DISTILLATIONS)
def test_stage_2_adds_the_weighted_distillation(kind: str) -> None:
    model, batch = make_model(), some_batch()
    stage = SparseStage(model, LossConfig(distill=kind, distill_weight=3.0)).eval()
    parts = stage(batch, epoch=2.0)
    assert batch.teacher is not None
    expected = distill(model.encode_text(batch.text), batch.teacher, kind=kind)
    torch.testing.assert_close(parts["distill"], expected)
    torch.testing.assert_close(parts["loss"], parts["align"] + 3.0 * expected)


def test_stage_1_aligns_and_nothing_else() -> None:
    model, batch = make_model(decoder=False), some_batch()
    stage = DenseStage(model, LossConfig()).eval()
    parts = stage(batch, epoch=2.0)
    v = model.encode_image(model.image.normalise(batch.pixels))
    scores = cosine_scores(v, model.encode_text(batch.text))
    expected = hinge(scores, batch.image_index, margin=0.2, hardest=True)
    torch.testing.assert_close(parts["loss"], expected)
    assert "distill" not in parts


@pytest.mark.parametrize("kind", ["hinge", "infonce", "siglip"])
def test_every_weight_is_trained(kind: str) -> None:
    stage = SparseStage(make_model(align=kind), LossConfig(align=kind)).train()
    stage(some_batch(), epoch=2.0)["loss"].backward()
    idle = [name for name, p in stage.named_parameters() if p.grad is None]
    assert idle == []


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize("chunk", [None, 2])
def test_the_joint_stage_aligns_both_texts_of_an_image(weight: float, chunk: int | None) -> None:
    rng = np.random.default_rng(1)
    dense = pad_texts([rng.integers(5, 60, size=n) for n in (11, 14, 12)], pad_id=0)
    batch, model = replace(some_batch(), dense=dense), make_model(align="infonce")
    loss = LossConfig(align="infonce", distill_weight=weight)
    parts = JointStage(model, loss, chunk=chunk).eval()(batch, epoch=2.0)
    v = model.encode_image(model.image.normalise(batch.pixels))
    sparse, told = model.encode_text(batch.text), model.text(dense)[0]
    # The dense text is read as it is; r is for what leaves something out.
    texts = torch.stack([sparse, told], dim=1).flatten(0, 1)
    expected = align(cosine_scores(v, texts), torch.arange(3), loss, epoch=2.0, logits=model.logits)
    torch.testing.assert_close(parts["align"], expected["align"])
    torch.testing.assert_close(parts["distill"], distill(sparse, told, kind="cosine"))
    torch.testing.assert_close(parts["loss"], parts["align"] + weight * parts["distill"])
    # The caption is drawn to the dense text, not the dense text to the caption.
    told.retain_grad()
    distill(sparse, told, kind="cosine").backward()
    assert told.grad is None


@pytest.mark.parametrize("target", ["dense", "image"])
def test_stage_2_may_distil_the_image_side_too(target: str) -> None:
    batch = replace(some_batch(), teacher_image=torch.randn(3, 32))
    model = make_model().eval()
    config = LossConfig(distill_image=target, distill_image_weight=0.5)
    parts = SparseStage(model, config).eval()(batch, epoch=2.0)
    wanted = batch.teacher if target == "dense" else batch.teacher_image
    assert wanted is not None
    expected = distill_image(model.encode_image(model.image.normalise(batch.pixels)), wanted)
    torch.testing.assert_close(parts["distill_image"], expected)
    torch.testing.assert_close(parts["loss"], parts["align"] + parts["distill"] + 0.5 * expected)
    assert "distill_image" not in SparseStage(model, LossConfig()).eval()(batch, epoch=2.0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_text_of_an_image_is_distilled_and_aligned(reduction: str) -> None:
    loss = LossConfig(distill_reduction=reduction)
    model, batch = make_model().eval(), some_batch()
    twice = torch.arange(3).repeat_interleave(2)
    text = pad_texts(
        [batch.text.ids[i, : int(batch.text.lengths[i])].numpy() for i in twice], pad_id=0
    )
    single = SparseStage(model, loss).eval()(batch, epoch=2.0)
    double = SparseStage(model, loss).eval()(replace(batch, text=text), epoch=2.0)
    # The same text twice: the hardest negatives and all distances are as they were.
    for part in ("align", "distill"):
        torch.testing.assert_close(double[part], single[part])


@pytest.mark.parametrize("kind", ["hinge", "infonce", "siglip"])
def test_nested_widths_are_aligned_each_by_itself(kind: str) -> None:
    model, batch = make_model(align=kind).eval(), some_batch()
    config = LossConfig(align=kind, widths=(4, 16))
    parts = SparseStage(model, config).eval()(batch, epoch=2.0)
    v = model.encode_image(model.image.normalise(batch.pixels))
    t = model.encode_text(batch.text)
    expected = 0.0
    for width in (4, 16, 32):
        cut = [x[:, :width] / x[:, :width].norm(dim=1, keepdim=True) for x in (v, t)]
        made = align(cut[0] @ cut[1].T, torch.arange(3), config, epoch=2.0, logits=model.logits)
        expected += made["align"].item()
    assert parts["align"].item() == pytest.approx(expected, rel=1e-6)
    whole = SparseStage(model, LossConfig(align=kind)).eval()(batch, epoch=2.0)
    assert parts["align"].item() != pytest.approx(whole["align"].item(), rel=1e-2)
