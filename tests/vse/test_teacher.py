"""The cached teacher is the computed one, and nothing moves it."""

from pathlib import Path

import pytest
import torch

from data.tokens import TokenStore
from tests.vse.test_dataset import CAPTIONS, make
from tests.vse.test_towers import make_model
from vse.teacher import cached_teacher, freeze_teacher
from vse.text_batch import pad_texts


@pytest.fixture
def dense() -> TokenStore:
    return make().texts.store


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
