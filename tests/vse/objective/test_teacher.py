"""The cached teacher is the computed one, and nothing moves it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.vse.model.test_towers import make_model, some_texts
from tests.vse.objective.test_stages import some_batch
from tests.vse.samples.test_batches import CAPTIONS, make
from vse.model.text_batch import TextBatch, pad_texts
from vse.model.tokenizer.tokens import TokenStore
from vse.objective.stages import SparseStage
from vse.objective.teacher import OnlineTeacher, cached_images, cached_teacher, freeze_teacher
from vse.recipes import LossConfig


@pytest.fixture
def dense() -> TokenStore:
    return make().sources.texts.store


def test_cached_equals_computed(dense: TokenStore, tmp_path: Path) -> None:
    model = make_model().train()  # the student's mode must not matter
    teacher = freeze_teacher(model)
    table = cached_teacher(teacher, dense, pad_id=0, folder=tmp_path, batch_size=3)
    assert table.shape == (len(CAPTIONS), 32)
    for index in range(len(dense)):
        t, _ = teacher.text(pad_texts([dense[index]], pad_id=0))
        torch.testing.assert_close(table[index], t[0], rtol=1e-5, atol=1e-6)
    again = cached_teacher(teacher, dense, pad_id=0, folder=tmp_path)
    assert torch.equal(again, table)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_weights_have_another_cache(dense: TokenStore, tmp_path: Path) -> None:
    teacher = freeze_teacher(make_model())
    first = cached_teacher(teacher, dense, pad_id=0, folder=tmp_path)
    with torch.no_grad():
        teacher.text.fc.weight.mul_(2)
    second = cached_teacher(teacher, dense, pad_id=0, folder=tmp_path)
    assert not torch.allclose(first, second)


def test_the_teacher_is_a_frozen_copy() -> None:
    model = make_model().train()
    teacher = freeze_teacher(model)
    assert not teacher.training and teacher.decoder is None
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        model.text.fc.weight.zero_()
    assert teacher.text.fc.weight.abs().sum() > 0


def online(*, moving: bool) -> OnlineTeacher:
    return OnlineTeacher(freeze_teacher(make_model()).text, moving=moving)


def test_computed_in_each_step_equals_cached(dense: TokenStore, tmp_path: Path) -> None:
    model = make_model()
    table = cached_teacher(freeze_teacher(model), dense, pad_id=0, folder=tmp_path)
    teacher = online(moving=False).train()
    rows = pad_texts([dense[index] for index in (3, 0, 5)], pad_id=0)
    for _ in range(2):
        torch.testing.assert_close(teacher(rows), table[[3, 0, 5]], rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(teacher(rows), table[[3, 0, 5]], rtol=1e-5, atol=1e-6)


def test_the_released_teacher_draws_dropout_and_moves_its_statistics() -> None:
    batch = some_texts()
    teacher = online(moving=True).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    torch.manual_seed(0)
    first, second = teacher(batch), teacher(batch)
    assert not torch.allclose(first, second)
    moved = {n for n, value in teacher.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {
        f"tower.mlp.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    teacher.eval()
    torch.testing.assert_close(teacher(batch), teacher(batch))


@pytest.mark.parametrize("moving", [False, True])
def test_a_stage_distils_from_its_online_teacher_and_never_trains_it(moving: bool) -> None:
    batch = replace(some_batch(), teacher=None, dense=some_texts(12))
    assert isinstance(batch.dense, TextBatch)
    stage = SparseStage(make_model(), LossConfig(), online(moving=moving)).train()
    assert stage.teacher is not None and stage.teacher.training is moving
    stage(batch, epoch=2.0)["loss"].backward()
    assert all(p.grad is None for p in stage.teacher.parameters())
    assert all(p.grad is not None for p in stage.model.text.backbone.encoder.parameters())
    stage.eval()
    expected = replace(batch, teacher=stage.teacher(batch.dense))
    found = stage(batch, epoch=2.0)["distill"]
    torch.testing.assert_close(
        found, SparseStage(stage.model, LossConfig())(expected, epoch=2.0)["distill"]
    )


def test_images_of_the_teacher_are_embedded_once(tmp_path: Path) -> None:
    teacher = freeze_teacher(make_model())
    pixels = make().sources.pixels
    pixels.px = 16
    names = ["a", "b", "c", "d"]
    table = cached_images(teacher, pixels, names=names, folder=tmp_path)
    for index in range(len(pixels)):
        whole = torch.from_numpy(pixels.read(index).copy())[None]
        torch.testing.assert_close(
            table[index], teacher.encode_image(teacher.image.normalise(whole))[0]
        )
    assert torch.equal(cached_images(teacher, pixels, names=names, folder=tmp_path), table)
    assert len(list(tmp_path.iterdir())) == 1
    cached_images(teacher, pixels, names=["e", *names[1:]], folder=tmp_path)
    with torch.no_grad():
        teacher.image.fc.weight.mul_(2)
    cached_images(teacher, pixels, names=names, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
