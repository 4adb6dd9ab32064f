"""Several texts of each image: kills, ranks, mixtures, dead sources."""

import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from captioner.run.session import CaptionResult, caption
from captioner.settings.placement import Placement
from captioner.store.verification import verify_run
from data.dense.run import read_run
from data.errors import UsageError, UserError
from tests.captioner.images import write_images
from tests.captioner.leases import keep_leases
from tests.captioner.run.test_session import ROOT, run_scripted
from tests.captioner.run.texts import (
    SAMPLED,
    THREE,
    all_bytes,
    configure,
    run_many,
)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """kill -9 again and again: 3 prompts x 2 samples end in the same bytes."""
    write_images(tmp_path / "i", 40)
    (tmp_path / "i" / "0013.png").write_bytes(b"text")
    run_many(tmp_path, SAMPLED, out=tmp_path / "whole")
    prompts = str(tmp_path / "prompts.yaml")
    command = [sys.executable, "-m", "tests.captioner.scripted_run", str(tmp_path / "i")]
    command += [str(tmp_path / "out"), "10"]
    moments = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            [*command, "0.01", "50", prompts], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(moments.randint(1, 45)):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.communicate()
    assert not all(read_run(tmp_path / "out" / name)["complete"] for name in SAMPLED)
    subprocess.run([*command, "0", "inf", prompts], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "whole")
    assert all(verify_run(tmp_path / "out" / name).ok for name in SAMPLED)


def test_ranks_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_leases(monkeypatch)
    write_images(tmp_path / "i", 45)
    texts = {**THREE, "kind": {**THREE["kind"], "model": "other"}}
    run_many(tmp_path, texts, out=tmp_path / "whole")
    results: list[CaptionResult] = []
    config = configure(tmp_path, texts)

    def work(rank: int) -> None:
        results.append(caption(replace(config, placement=Placement(rank=rank, world_size=2))))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    # What one of them was still at when the other looked is its own to finish.
    assert any(result.complete for result in results)
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "whole")


def test_one_text_and_many_are_not_mixed(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 3)
    run_scripted(tmp_path / "i", tmp_path / "one")
    with pytest.raises(UsageError, match="contains a run with one text"):
        run_many(tmp_path, THREE, out=tmp_path / "one")
    run_many(tmp_path, THREE)
    before = all_bytes(tmp_path / "out")
    with pytest.raises(UsageError, match="contains several texts"):
        run_scripted(tmp_path / "i", tmp_path / "out")
    with pytest.raises(UserError, match=r"other settings .*text\."):
        run_scripted(tmp_path / "i", tmp_path / "out" / "dense")
    with pytest.raises(UserError, match="limit: None -> 2"):
        run_many(tmp_path, THREE, limit=2, redo=True)
    assert all_bytes(tmp_path / "out") == before


def test_sources_without_an_image_make_no_run(tmp_path: Path) -> None:
    for name in write_images(tmp_path / "i", 4):
        (tmp_path / "i" / name).write_bytes(b"<html>")
    with pytest.raises(UserError, match="could be read"):
        run_many(tmp_path, THREE)
    assert not [*(tmp_path / "out").rglob("*.json"), *(tmp_path / "out").rglob("*.yaml")]
