"""What of a thing can be inferred: as many bits as are asked for, counted in the ground truth."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.scenes.correlation import chances, information, measure
from data.scenes.folder import measure_bits, read_truths
from data.scenes.world import sample_scene
from pipelines.cli import run

KINDS = (6, 8, 8, 4)


def test_information_in_bits() -> None:
    assert information(np.eye(4) / 4) == pytest.approx(2)
    assert information(np.full((4, 4), 1 / 16)) == pytest.approx(0)
    assert measure([("a", "x"), ("b", "y")] * 50) == pytest.approx(1, abs=0.02)
    draw = np.random.default_rng(0)
    chance = [(str(a), str(b)) for a, b in draw.integers(0, 8, (200, 2))]
    assert measure(chance) < 0.06


@pytest.mark.parametrize("bits", [0.0, 1.0, 2.0, 4.0])
def test_tables_carry_the_bits_that_are_asked_for(bits: float) -> None:
    tables = chances(bits, kinds=KINDS)
    assert sum(information(table / len(table)) for table in tables) == pytest.approx(bits, abs=1e-3)
    for table in tables:
        np.testing.assert_allclose(table.sum(1), 1)


def test_scenes_carry_about_as_many() -> None:
    found = {}
    for bits in (0.0, 2.0, 4.0):
        scenes = [sample_scene(0, "train", i, correlation=bits) for i in range(500)]
        parts = measure_bits(scenes)
        found[bits] = sum(v for name, v in parts.items() if name != "shape_from_neighbour")
        assert all(len({(t.shape, t.colour) for t in s.things}) == len(s.things) for s in scenes)
        # Things that belong together come together.
        assert (parts["shape_from_neighbour"] > 0.05) == (bits > 0)
    assert found[0.0] < 0.05
    # Things of a scene differ, which takes a little off.
    assert found[2.0] == pytest.approx(2, abs=0.3) and 3 < found[4.0] < 4.1


def test_the_command_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    size = ["--train", "60", "--val", "2", "--test", "4"]
    assert run(["scenes", *size, "--correlation", "3"]) == 0
    assert "mutual information" in capsys.readouterr().out
    figures = json.loads(Path("scenes/figures.json").read_text())
    assert figures["bits"]["texture_from_shape"] > 0.5
    assert next(read_truths(Path("scenes"))).scene == sample_scene(0, "train", 0, correlation=3)
    # Another world is not taken for this one.
    assert run(["scenes", *size]) == 1
    assert run(["scenes", *size, "--correlation", "5"]) == 2
