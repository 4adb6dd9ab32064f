"""Texts that are generated again with other settings, and what is kept of the old ones."""

import os
import shutil
from pathlib import Path

import pytest

from captioner.store.verification import verify_run
from data.dense.run import read_run
from tests.captioner.images import write_images
from tests.captioner.run.texts import all_bytes, run_many

ONE, OTHER = {"dense": "Describe it."}, {"dense": "Describe it in detail."}


def test_all_texts_are_redone_for_the_images_of_the_run(tmp_path: Path) -> None:
    """Nothing that is left tells which they were, and images came meanwhile."""
    write_images(tmp_path / "i", 12)
    run_many(tmp_path, ONE)
    before = all_bytes(tmp_path / "out")
    write_images(tmp_path / "i", 15)
    result = run_many(tmp_path, OTHER, redo=True)
    assert (result.generated, result.new_images, result.complete) == (12, 3, True)
    assert verify_run(tmp_path / "out" / "dense").ok
    assert run_many(tmp_path, ONE, redo=True).generated == 0
    assert all_bytes(tmp_path / "out") == before
    # And both with the new images.
    assert run_many(tmp_path, ONE, append=True).generated == 3
    assert run_many(tmp_path, OTHER, redo=True).generated == 3


def test_a_kill_between_the_two_moves_loses_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    run_many(tmp_path, ONE)
    before = all_bytes(tmp_path / "out")
    run_many(tmp_path, OTHER, redo=True)
    folder = tmp_path / "out" / "dense"
    os.rename(folder, tmp_path / "out" / "replaced" / f"dense-{read_run(folder)['run_id']}")
    told: list[str] = []
    assert run_many(tmp_path, ONE, on_event=told.append).generated == 0
    assert all_bytes(tmp_path / "out") == before and "restored" in told[0]


@pytest.mark.parametrize("times", [1, 2])
def test_texts_that_were_kept_before_are_kept_again(tmp_path: Path, times: int) -> None:
    write_images(tmp_path / "i", 12)
    run_many(tmp_path, ONE)
    run_many(tmp_path, OTHER, redo=True)
    folder, kept = tmp_path / "out" / "dense", tmp_path / "out" / "replaced"
    name = f"dense-{read_run(folder)['run_id']}"
    for number in range(times):
        shutil.copytree(folder, kept / (f"{name}-{number + 1}" if number else name))
    assert run_many(tmp_path, ONE, redo=True).complete
    names = [name, *(f"{name}-{number + 2}" for number in range(times))]
    assert sorted(path.name for path in kept.iterdir()) == sorted(names)
