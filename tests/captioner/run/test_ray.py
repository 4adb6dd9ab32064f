"""Real Ray on this machine: ranks in actors, one of them killed, one whose engine fails."""

import contextlib
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest

from captioner.run import ray
from captioner.run.session import CaptionResult, Progress, caption
from captioner.settings.config import CaptionConfig
from captioner.settings.placement import Placement
from captioner.settings.prepare import PreparedRun
from captioner.store.store import COMMIT_LOCK_NAME
from captioner.store.verification import verify_run
from data.dense.run import read_run
from data.errors import UserError
from data.files.locks import hold_lock
from data.scenes.folder import write_scenes
from tests.captioner.images import write_images
from tests.captioner.run.test_session import run_scripted, shard_bytes
from tests.captioner.run.texts import THREE, all_bytes, run_many
from tests.waiting import wait_until

pytest.importorskip("ray", reason='Ray is not installed: pip install "d2s-vse[ray]"')


def run_on_ray(images: Path, out: Path, **options: Any) -> CaptionResult:
    placement = Placement(cluster="ray", cluster_engines=2, gpus_per_engine=0)
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "shard_size": 40}
    return caption(images=images, out=out, placement=placement, **(arguments | options))


def find_workers() -> list[psutil.Process]:
    """Processes of our Ray that have a decoding process of ours: workers at work."""
    found = []
    for process in psutil.Process().children(recursive=True):
        # They come and go.
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if "captioner.decode.worker" in " ".join(process.cmdline()) and parent is not None:
                found += [parent] * ("ray::" in " ".join(parent.cmdline()))
    return found


def test_the_bytes_are_those_of_one_process_though_a_worker_is_killed(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 800, side=8)
    (tmp_path / "i" / "0050.png").write_bytes(b"text")
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=40)
    killed: list[int] = []
    counts: list[int] = []

    def kill_one() -> None:
        wait_until(lambda: killed.extend(worker.pid for worker in find_workers()) or killed)
        # Nobody finishes a shard meanwhile.
        with hold_lock(tmp_path / "out", COMMIT_LOCK_NAME):
            os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)

    def follow(progress: Progress) -> None:
        if not counts:
            killer.start()
        counts.append(progress.done)

    result = run_on_ray(tmp_path / "i", tmp_path / "out", on_progress=follow)
    killer.join()
    assert killed
    assert result.complete and result.statuses == {"decode_error": 1, "ok": 799}
    assert counts[0] == 0 and counts == sorted(counts)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert verify_run(tmp_path / "out").ok
    assert read_run(tmp_path / "out")["engine"]["engine"] == "scripted"
    # Again: nothing is left to do, and Ray is not started for it.
    assert run_on_ray(tmp_path / "i", tmp_path / "out").generated == 0


def test_a_rank_that_fails_is_told_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is refused its settings; the other one does it all."""
    write_images(tmp_path / "i", 60, side=8)
    lines: list[str] = []
    configure = ray.configure_rank

    def break_second(prepared: PreparedRun, placement: Placement) -> CaptionConfig:
        config = configure(prepared, placement)
        if placement.rank == 1:
            config = replace(config, text=replace(config.text, seed=9))
        return config

    monkeypatch.setattr(ray, "configure_rank", break_second)
    result = run_on_ray(tmp_path / "i", tmp_path / "out", on_event=lines.append)
    assert result.complete and result.ok == 60 and result.generated == 60
    assert any("rank 0 of 2: starting scripted" in line for line in lines)
    assert any("rank 1 of 2: failed" in line and "sampling.seed" in line for line in lines)


def test_ranks_that_all_fail_end_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 3)
    monkeypatch.setattr(
        ray,
        "configure_rank",
        lambda prepared, placement: replace(
            prepared.config, placement=placement, text=replace(prepared.config.text, seed=9)
        ),
    )
    with pytest.raises(UserError, match="other settings"):
        run_on_ray(tmp_path / "i", tmp_path / "out")
    assert not read_run(tmp_path / "out")["complete"]


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 3)
    with pytest.raises(UserError, match="need 2000, but the Ray cluster has"):
        caption(
            model="any",
            engine="scripted",
            images=tmp_path / "i",
            out=tmp_path / "out",
            placement=Placement(cluster="ray", cluster_engines=1000, gpus_per_engine=2),
        )


@pytest.mark.parametrize("theirs", [True, False])
def test_a_ray_of_the_caller_is_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bool
) -> None:
    write_images(tmp_path / "i", 60, side=8)
    fake = MagicMock()
    fake.is_initialized.return_value, fake.cluster_resources.return_value = theirs, {}

    def end_first(ray: Any, ranks: Any, **_: Any) -> bool:
        for rank in ranks:
            rank.begin()
        ranks[0]._end()
        return False

    monkeypatch.setattr(ray, "_import_ray", lambda: fake)
    monkeypatch.setattr(ray, "_follow", end_first)
    assert run_on_ray(tmp_path / "i", tmp_path / "out").interrupted
    assert (fake.init.called, fake.shutdown.called) == (not theirs, not theirs)
    # One by itself; shutting down ends the other one.
    assert fake.kill.call_count == (2 if theirs else 1)


@pytest.mark.parametrize(("address", "tries"), [("local", 3), ("10.0.0.1:6379", 1)])
def test_ray_is_started_again_but_a_cluster_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, address: str, tries: int
) -> None:
    fake = MagicMock()
    fake.init.side_effect = RuntimeError("too slow")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match="too slow"):
        ray._start(fake)
    assert fake.init.call_count == fake.shutdown.call_count == tries


@pytest.mark.vllm
def test_the_real_engine_on_a_worker(tmp_path: Path) -> None:
    """The texts, and the bytes, of `d2s caption` in one process."""
    write_scenes(tmp_path / "s", counts={"train": 1, "val": 1, "test": 12}, seed=0)
    arguments: dict[str, Any] = {"model": "llava-scenes", "engine": "vllm", "shard_size": 5}
    arguments |= {"max_tokens": 120, "temperature": 0.2}
    alone = caption(images=tmp_path / "s" / "test", out=tmp_path / "alone", engines=1, **arguments)
    placement = Placement(cluster="ray", cluster_engines=1)
    options = arguments | {"placement": placement}
    on_ray = caption(images=tmp_path / "s" / "test", out=tmp_path / "ray", **options)
    assert alone.ok == on_ray.ok == 12
    assert read_run(tmp_path / "ray")["engine"]["engine"] == "vllm"
    assert shard_bytes(tmp_path / "ray") == shard_bytes(tmp_path / "alone")


def test_several_texts_on_a_cluster_are_those_of_one_process(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 60, side=8)
    texts = {**THREE, "kind": {**THREE["kind"], "model": "other"}}
    run_many(tmp_path, texts, out=tmp_path / "whole")
    placement = Placement(cluster="ray", cluster_engines=2, gpus_per_engine=0)
    result = run_many(tmp_path, texts, placement=placement)
    assert result.complete and (result.ok, result.generated) == (240, 240)
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "whole")
