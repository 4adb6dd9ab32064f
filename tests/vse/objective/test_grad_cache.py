"""A batch in chunks: the gradient of the whole batch, the memory of a chunk."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.vse.model.test_towers import make_model
from vse.model.backbones import build_backbone
from vse.model.text_batch import pad_texts
from vse.model.towers import ImageTower
from vse.objective.alignment import cosine_scores
from vse.objective.distillation import distill
from vse.objective.grad_cache import embed_in_chunks
from vse.objective.stages import DenseStage, SparseStage
from vse.recipes import LossConfig
from vse.samples.batches import Batch

SIZE = 10
EXACT = {"rtol": 0.0, "atol": 0.0}


def make_batch() -> Batch:
    draw = np.random.default_rng(0)
    texts = [draw.integers(5, 60, size=n) for n in draw.integers(3, 12, size=SIZE)]
    torch.manual_seed(1)
    return Batch(
        torch.from_numpy(draw.integers(0, 255, (SIZE, 16, 16, 3), dtype=np.uint8)),
        torch.rand(SIZE, 5) < 0.3,
        pad_texts(texts, pad_id=0),
        torch.tensor([0, 1, 2, 3, 1, 5, 6, 7, 8, 9]),  # an image in two chunks
        torch.randn(SIZE, 32),
    )


def gradients(stage: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None}
    stage.zero_grad()
    return found


def run(stage: nn.Module, batch: Batch, *, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(seed)
    loss = stage(batch, epoch=2.0)["loss"]
    loss.backward()
    return gradients(stage), loss.detach()


@pytest.mark.parametrize("align", ["hinge", "infonce", "siglip"])
@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_the_gradient_is_that_of_the_whole_batch(align: str, chunk: int) -> None:
    # In evaluation mode, for dropout draws per call and BatchNorm's statistics are the chunk's.
    stage = SparseStage(make_model(align=align), LossConfig(align=align)).eval()
    whole, loss = run(stage, make_batch())
    stage.chunk = chunk
    found, again = run(stage, make_batch())
    torch.testing.assert_close(again, loss)
    assert found.keys() == whole.keys() and len(found) == len(list(stage.parameters()))
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    # What plain accumulation gives is something else: a chunk has fewer negatives.
    for part in make_batch().split(5):
        (stage(part, epoch=2.0)["loss"] / 2).backward()
    plain = gradients(stage)
    assert not torch.allclose(plain["model.image.fc.weight"], whole["model.image.fc.weight"])


def test_chunks_take_all_texts_of_their_images() -> None:
    draw = np.random.default_rng(5)
    texts = [draw.integers(5, 60, size=n) for n in draw.integers(3, 12, size=2 * SIZE)]
    batch = dataclasses.replace(
        make_batch(), text=pad_texts(texts, pad_id=0), teacher_image=torch.randn(SIZE, 32)
    )
    stage = SparseStage(make_model(), LossConfig(distill_image="image")).eval()
    whole, loss = run(stage, batch)
    stage.chunk = 3
    found, again = run(stage, batch)
    torch.testing.assert_close(again, loss)
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_each_chunk_is_embedded_again_with_the_dropout_it_had() -> None:
    """The naive twin keeps all activations; dropout and BatchNorm are at work in both."""
    batch, found = make_batch(), {}
    for name, chunked in (("chunked", True), ("naive", False)):
        model = make_model().train()
        torch.manual_seed(3)
        if chunked:
            v, t = embed_in_chunks(model, batch, size=4)
        else:
            parts = [
                model(model.image.normalise(p.pixels), p.text, drop=p.drop) for p in batch.split(4)
            ]
            v, t = (torch.cat(rows) for rows in zip(*parts, strict=True))
        assert batch.teacher is not None
        loss = cosine_scores(v, t).diagonal().sum() + distill(t, batch.teacher, kind="cosine")
        loss.backward()
        found[name] = gradients(model) | dict(model.named_buffers()) | {"draw": torch.rand(1)}
    # The running statistics too: a chunk that is embedded twice counts once.
    assert found["naive"]["text.mlp.1.num_batches_tracked"] == 3
    torch.testing.assert_close(found["chunked"], found["naive"], **EXACT)


def test_the_random_state_is_saved_for_the_device_of_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch looks at arguments that are tensors; in a dataclass, it does not find them."""
    seen: list[bool] = []
    real = torch.utils.checkpoint._infer_device_type

    def note(*arguments: Any) -> Any:
        seen.append(any(isinstance(argument, torch.Tensor) for argument in arguments))
        return real(*arguments)

    monkeypatch.setattr(torch.utils.checkpoint, "_infer_device_type", note)
    embed_in_chunks(make_model().train(), make_batch(), size=4)
    assert seen and all(seen)


def test_a_resnets_statistics_count_a_chunk_once() -> None:
    batch, found = make_batch(), {}
    for name in ("chunked", "naive"):
        torch.manual_seed(0)
        model = make_model(decoder=False)
        resnet = build_backbone({"library": "timm", "name": "resnet10t"}, px=16)
        model.image = ImageTower(resnet, width=32)
        model.train()
        if name == "chunked":
            v, _ = embed_in_chunks(model, dataclasses.replace(batch, drop=None), size=5)
        else:
            v = torch.cat(
                [model.encode_image(model.image.normalise(p.pixels)) for p in batch.split(5)]
            )
        v[:, 0].sum().backward()
        found[name] = dict(model.image.named_buffers())
    assert found["naive"]["backbone.model.bn1.num_batches_tracked"] == 2
    torch.testing.assert_close(found["chunked"], found["naive"], **EXACT)


def test_no_more_than_a_chunk_goes_through_the_towers_at_once() -> None:
    stage = DenseStage(make_model(decoder=False), LossConfig(), chunk=4).train()
    seen: list[int] = []
    stage.model.image.backbone.register_forward_hook(
        lambda module, args, out: seen.append(len(out))
    )
    run(stage, make_batch())
    assert seen == [4, 4, 2, 2, 4, 4]  # there, and back again from the last one


def test_a_part_of_a_batch_is_the_batch_of_those_pairs() -> None:
    batch = make_batch()
    batch = dataclasses.replace(batch, dense=batch.text)
    parts = batch.split(4)
    assert [len(part.pixels) for part in parts] == [4, 4, 2]
    texts = [batch.text.ids[i, : batch.text.lengths[i]].numpy() for i in range(SIZE)]
    for at, part in zip((0, 4, 8), parts, strict=True):
        expected = pad_texts(texts[at : at + 4], pad_id=0)
        for text in (part.text, part.dense):
            assert text is not None
            for name in ("ids", "lengths", "real"):
                assert torch.equal(getattr(text, name), getattr(expected, name)), name
            assert (text.mask is None) == (expected.mask is None)
        assert part.drop is not None and part.teacher is not None
        assert batch.drop is not None and batch.teacher is not None
        for name in ("pixels", "drop", "image_index", "teacher"):
            assert torch.equal(getattr(part, name), getattr(batch, name)[at : at + 4])
    whole = batch.split(SIZE)
    assert len(whole) == 1 and torch.equal(whole[0].text.ids, batch.text.ids)
