"""Forecasts of a step against a real one: what autograd keeps, what AdamW holds, FLOP."""

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.vse.world import TINY
from vse.model.build import assemble, count_weights
from vse.model.d2s import D2SModel
from vse.model.gpo import run_packed
from vse.model.text_batch import TextBatch
from vse.recipes import Recipe
from vse.recipes.files import read_recipe, resolve
from vse.samples.batches import Batch
from vse.training.forecast.meta_device import (
    META,
    _WithoutScan,
    count_flops,
    count_kept_bytes,
    embed,
    make_batch,
    make_texts,
)
from vse.training.forecast.step import (
    ARCHITECTURES,
    StepForecast,
    add_up_memory,
    build_on_meta,
    count_step_flops,
    forecast_step,
    pick_lengths,
)
from vse.training.optim import make_optimizer


class Vocabulary:
    vocab_size = 300
    pad_id = 0


class Bert:
    vocab_size = 30522
    pad_id = 0


def tiny(*overrides: str) -> Recipe:
    dropless = ("text.dropout=0.0", "image.config.hidden_dropout_prob=0.0")
    return resolve(TINY, stage="2", overrides=(*dropless, *overrides))


def count_for_real(model: D2SModel, batch: Batch) -> int:
    """Bytes that a forward pass on the CPU keeps, GPO's scan left out."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    packed = mock.patch("vse.model.gpo.run_on_cpu", run_packed)  # the GRU of a GPU
    with packed, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), _WithoutScan():
        embed(model, batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def real_batch(batch: Batch) -> Batch:
    """The same shapes with numbers."""

    def fill(text: TextBatch) -> TextBatch:
        real = torch.arange(text.ids.shape[1]) < text.lengths[:, None]
        mask = None if text.mask is None else real
        ids = torch.zeros(text.ids.shape, dtype=torch.long)
        return replace(text, ids=ids, mask=mask, real=real.flatten().nonzero()[:, 0])

    pixels = torch.zeros(batch.pixels.shape, dtype=torch.uint8)
    dense = None if batch.dense is None else fill(batch.dense)
    return replace(batch, pixels=pixels, text=fill(batch.text), dense=dense)


@pytest.mark.parametrize("dense", [(), (40, 22)])
@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("model_type", ["vit", "swin"])
def test_kept_bytes_are_those_of_a_real_pass(
    size: int, model_type: str, dense: tuple[int, ...]
) -> None:
    recipe = tiny()
    if model_type == "swin":
        raw: dict[str, Any] = {**TINY, "image": {"px": 16, "config": {}}}
        raw["image"]["config"] = {
            "model_type": "swin", "image_size": 16, "patch_size": 2, "embed_dim": 8,
            "depths": [1, 2], "num_heads": [1, 2], "window_size": 4,
        }  # fmt: skip
        recipe = resolve(raw, stage="2", overrides=("text.dropout=0.0",))
    shadow = build_on_meta(recipe, stage="2", vocabulary=Vocabulary()).eval()
    model = assemble(recipe, tokenizer=Vocabulary(), decoder=True).eval()
    assert all(p.device == META for p in shadow.parameters())
    assert count_weights(shadow) == count_weights(model)
    batch = make_batch(shadow, px=16, lengths=[12, 7, 9, 12, 3][:size], dense=dense)
    found = count_kept_bytes(shadow, batch, half=False)
    real = count_for_real(model, real_batch(batch))
    # A CPU's attention is not fused where the bias has a gradient, as Swin's has; a GPU's is.
    assert found == pytest.approx(real, rel=0.1 if model_type == "swin" else 0.005)
    assert found <= real * 1.005


def test_half_precision_keeps_less_and_more_pairs_keep_more() -> None:
    model = build_on_meta(tiny(), stage="2", vocabulary=Vocabulary())

    def kept(count: int, half: bool) -> int:
        return count_kept_bytes(model, make_batch(model, px=16, lengths=[9] * count), half=half)

    one, two, three = (kept(count, False) for count in (8, 16, 24))
    assert three - two == pytest.approx(two - one, rel=0.01)
    assert 0.4 < kept(24, True) / three < 0.9


def test_states_are_what_a_real_step_leaves() -> None:
    recipe = tiny("image.freeze=all")
    model = assemble(recipe, tokenizer=Vocabulary(), decoder=True).train()
    optimizer = make_optimizer(torch.nn.ModuleDict({"model": model}), recipe.optim)
    batch = real_batch(make_batch(model, px=16, lengths=[9, 5]))
    v, t = model(model.image.normalise(batch.pixels), batch.text)
    assert model.logits is not None
    model.logits(v.sum() + t.square().sum()).backward()
    optimizer.step()
    shadow = build_on_meta(recipe, stage="2", vocabulary=Vocabulary())
    found = add_up_memory(shadow, recipe, stage="2", kept=0, processes=1)
    moments = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name.startswith("exp_avg")
    ]
    assert found["AdamW"] == sum(value.nbytes for value in moments)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert found["gradients"] == sum(grad.nbytes for grad in grads)
    assert found["weights"] == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def test_what_else_takes_memory() -> None:
    plain = tiny()
    shadow = build_on_meta(plain, stage="2", vocabulary=Vocabulary())

    def names(*overrides: str, stage: str = "2", processes: int = 1) -> set[str]:
        return set(
            add_up_memory(shadow, tiny(*overrides), stage=stage, kept=0, processes=processes)
        )

    usual = names()
    assert usual == {"weights", "gradients", "AdamW", "activations"}
    assert names("optim.ema=0.9") - usual == {"averaged weights"}
    assert names("teacher.mode=online-eval") - usual == {"teacher"}
    assert names("teacher.mode=online-eval", stage="1") == usual
    assert names(processes=2) - usual == {"gradient buckets"}


def test_flops_of_a_linear_layer_and_of_attention() -> None:
    layer = torch.nn.Linear(6, 4, device=META)
    assert count_flops(lambda: layer(torch.zeros(5, 6, device=META))) == 2 * 5 * 6 * 4
    rows = torch.zeros(1, 2, 7, 3, device=META)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(rows, rows, rows)) == 2 * (2 * 2 * 7 * 7 * 3)


def test_a_step_is_three_passes_and_a_frozen_backbone_one_or_none() -> None:
    lengths = [9] * 16

    def flops(*overrides: str) -> int:
        recipe = tiny(*overrides)
        shadow = build_on_meta(recipe, stage="2", vocabulary=Vocabulary())
        return count_step_flops(shadow, recipe, lengths)

    shadow = build_on_meta(tiny(), stage="2", vocabulary=Vocabulary())
    batch = make_batch(shadow, px=16, lengths=lengths)
    pixels, text = shadow.image.normalise(batch.pixels), batch.text
    image = count_flops(lambda: shadow.encode_image(pixels))
    backbone = count_flops(lambda: shadow.image.backbone(pixels))
    words = count_flops(lambda: shadow.text.backbone(text.ids, text.mask))
    assert flops() == 3 * (image + count_flops(lambda: shadow.encode_text(text)))
    assert flops() - flops("image.freeze=all") == 2 * backbone
    assert flops() - flops("text.freeze=all") == 2 * words
    cached = ("data.cache_tokens=true", "data.crop_min=1", "data.word_mask=0", "optim.chunk=4")
    kept = flops(*cached, "image.freeze=all", "text.freeze=all")
    assert kept == flops("optim.chunk=4") - 4 * (backbone + words)
    assert flops("image.checkpointing=true") == flops() + backbone
    assert flops("optim.chunk=4") == pytest.approx(flops() * 4 / 3)
    # Two texts an image: the same images, half as many.
    assert flops("data.texts_per_step=2") == pytest.approx(flops() - 1.5 * image, rel=1e-3)


@pytest.mark.parametrize("texts", [1, 2])
def test_a_joint_step_reads_an_image_captions_and_a_dense_text(texts: int) -> None:
    """The dense texts pass the tower alone, and captions are not padded to their length."""
    recipe = tiny(f"data.texts_per_step={texts}")
    shadow = build_on_meta(recipe, stage="joint", vocabulary=Vocabulary())
    captions, dense = [5] * (4 * texts), [20, 30, 30, 40]
    batch = make_batch(shadow, px=16, lengths=captions, dense=dense, texts=texts)
    assert batch.dense is not None and len(batch.pixels) == len(batch.dense.lengths) == 4
    told = batch.dense
    parts = (
        lambda: shadow.encode_image(shadow.image.normalise(batch.pixels)),
        lambda: shadow.encode_text(batch.text),
        lambda: shadow.text(told),
    )
    found = count_step_flops(shadow, recipe, captions, dense)
    assert found == 3 * sum(map(count_flops, parts))
    backbone = shadow.text.backbone
    words = sum(count_flops(lambda t=t: backbone(t.ids, t.mask)) for t in (batch.text, told))
    frozen = tiny(f"data.texts_per_step={texts}", "text.freeze=all")
    assert count_step_flops(shadow, frozen, captions, dense) == found - 2 * words


def test_a_teacher_that_is_not_cached_reads_the_dense_texts_in_every_step() -> None:
    def forecast(mode: str) -> StepForecast:
        recipe = tiny(f"teacher.mode={mode}")
        return forecast_step(recipe, stage="2", lengths=[5] * 4, dense=[9] * 4,
                             vocabulary=Vocabulary())  # fmt: skip

    tower = build_on_meta(tiny(), stage="2", vocabulary=Vocabulary()).text
    passes = count_flops(lambda: tower(make_texts([9] * 4)))
    cached, online = forecast("cached"), forecast("online-eval")
    assert online.flops - cached.flops == passes > 0
    assert online.memory["activations"] == cached.memory["activations"]


def test_processes_and_chunks_divide_the_dense_texts_too() -> None:
    def kept(*overrides: str, processes: int = 1, count: int = 8) -> int:
        found = forecast_step(tiny(*overrides), stage="joint", lengths=[5] * count,
                              dense=[6] * (count - 4) + [50] * 4, vocabulary=Vocabulary(),
                              processes=processes)  # fmt: skip
        return found.memory["activations"]

    assert kept(processes=2) == kept("optim.chunk=4") == kept(count=4)


def test_processes_chunks_and_the_longest_texts() -> None:
    def peak(processes: int = 1, *overrides: str) -> int:
        found = forecast_step(tiny(*overrides), stage="2", lengths=[3] * 8 + [30] * 8,
                              vocabulary=Vocabulary(), processes=processes)  # fmt: skip
        return found.memory["activations"]

    assert peak() > peak(2) > 0.5 * peak()  # the second half are the long ones
    assert peak(1, "optim.chunk=8") == peak(2)
    assert peak(1, "image.checkpointing=true") < peak()


def test_lengths_that_stand_for_all() -> None:
    assert pick_lengths([5, 1, 9], 3) == [1, 5, 9]
    assert pick_lengths(range(100), 4) == [12, 37, 62, 87]
    assert pick_lengths([7], 3) == [7, 7, 7]


def test_the_papers_towers() -> None:
    """86 M and 110 M weights; 55.5 GMAC for an image of 384 px (timm's vit_base_patch16_384)."""
    recipe = resolve(read_recipe("paper"), stage="2")
    found = forecast_step(recipe, stage="2", lengths=[16] * 128, vocabulary=Bert())
    assert found.weights["image"] == pytest.approx(86.2e6, rel=0.01)
    assert found.weights["text"] == pytest.approx(109.6e6, rel=0.01)
    assert found.weights["decoder"] == pytest.approx(12.7e6, rel=0.01)
    model = build_on_meta(recipe, stage="2", vocabulary=Bert())
    batch = make_batch(model, px=384, lengths=[16])
    image = count_flops(lambda: model.encode_image(model.image.normalise(batch.pixels)))
    assert image == pytest.approx(2 * 55.5e9, rel=0.02)
    assert set(ARCHITECTURES) >= {recipe.image.name, recipe.text.name}
