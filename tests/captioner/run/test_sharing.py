"""Several owners of one output folder: leases, ranks, takeovers, and the bytes that come of it."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner.engine.protocol import Generation
from captioner.engine.scripted import ScriptedEngine
from captioner.run.session import CaptionResult, Progress, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.placement import Placement
from captioner.settings.prepare import PreparedRun, prepare_caption
from captioner.store import leases
from captioner.store.leases import Leases
from captioner.store.verification import verify_run
from data.dense.run import read_run
from data.errors import UserError
from tests.captioner.images import write_images
from tests.captioner.leases import end_leases, keep_leases
from tests.captioner.run.test_session import run_scripted, shard_bytes
from tests.waiting import HANG_SECONDS, meet, wait_until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def lasting_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_leases(monkeypatch)


class _Engine(ScriptedEngine):
    """Calls `before` ahead of each step, which may hold it up."""

    def __init__(self, seconds: float, before: Callable[[], object]) -> None:
        super().__init__(seconds_per_step=seconds)
        self._before = before

    def collect(self) -> list[Generation]:
        self._before()
        return super().collect()


def run_rank(
    images: Path,
    out: Path,
    rank: int,
    size: int,
    *,
    seconds: float = 0.0,
    before: Callable[[], object] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> CaptionResult:
    placement = Placement(rank=rank, world_size=size)
    prepared = prepare_caption(
        CaptionConfig.of(
            model="any",
            engine="scripted",
            images=images,
            out=out,
            shard_size=10,
            placement=placement,
            **options,
        )
    )
    choice = replace(prepared.choice, start=lambda _: _Engine(seconds, before))
    return run_prepared(
        replace(prepared, choice=choice),
        stop=stop,
        on_progress=on_progress,
        on_event=on_event,
    )


def test_a_lease_is_one_owners(tmp_path: Path) -> None:
    with (
        Leases(tmp_path / "l", owner="a") as one,
        Leases(tmp_path / "l", owner="b") as two,
    ):
        assert one.take("7") and one.take("7")
        assert not two.take("7") and two.take("8")
        one.release("7")
        assert two.take("7")
        # Not ours any more: giving it free is not for us.
        one.release("7")
        assert not one.take("7")
    assert not (tmp_path / "l").exists()


def test_a_lease_that_is_not_renewed_ends(tmp_path: Path) -> None:
    dead = Leases(tmp_path, owner="dead")
    assert dead.take("7")  # its thread, which would renew it, was never started
    with Leases(tmp_path, owner="b") as heir:
        assert not heir.take("7")
        end_leases(tmp_path, "7")
        assert heir.take("7")
        end_leases(tmp_path, "7")
        # Its thread renews it.
        wait_until(lambda: (tmp_path / "7").stat().st_mtime)
        assert not Leases(tmp_path, owner="c").take("7")


def test_looking_at_a_lease_again_and_again_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(leases, "_RENEWALS", 1)  # not renewed if the machine pauses for a moment
    touch = Path.touch
    monkeypatch.setattr(Path, "touch", lambda path: (made.append(path), touch(path)))
    with Leases(tmp_path, owner="a") as one, Leases(tmp_path, owner="b") as two:
        assert one.take("shard")
        for _ in range(50):
            assert two.read_lease("shard") is not None and not two.take("shard")
    assert len(made) == 1


def test_the_same_owner_takes_up_its_own_at_once(tmp_path: Path) -> None:
    dead = Leases(tmp_path, owner="rank 1 of 4")
    assert dead.take("7")
    assert Leases(tmp_path, owner="rank 1 of 4").take("7")


def test_of_many_only_one_gets_it(tmp_path: Path) -> None:
    start, got = threading.Barrier(8), []

    def grab(number: int) -> None:
        leases = Leases(tmp_path, owner=str(number))
        start.wait()
        if leases.take("7"):
            got.append(number)

    threads = [threading.Thread(target=grab, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_ranks_one_after_the_other(tmp_path: Path) -> None:
    """The first finds nobody at work and does it all; the others find nothing left."""
    write_images(tmp_path / "i", 45)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    first = run_rank(tmp_path / "i", tmp_path / "out", 0, 3)
    assert first.complete and first.generated == 45
    assert run_rank(tmp_path / "i", tmp_path / "out", 1, 3).generated == 0
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert not (tmp_path / "out" / "leases").exists()


def test_ranks_at_the_same_time_share_the_work(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 95)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    results: list[CaptionResult] = []
    # Whoever comes late still finds something.
    before = meet(3)

    def work(rank: int) -> None:
        results.append(run_rank(tmp_path / "i", tmp_path / "out", rank, 3, before=before))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.generated for result in results) == 95
    assert all(result.generated for result in results)
    assert any(result.complete for result in results)
    assert not any(result.interrupted for result in results)
    run = read_run(tmp_path / "out")
    assert run["complete"] and run["sessions"]["count"] == 3
    assert run["sessions"]["generated"] == 95
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert verify_run(tmp_path / "out").ok


def die_after(texts: int) -> Callable[[Progress], None]:
    def follow(progress: Progress) -> None:
        if progress.done == texts:
            os.kill(os.getpid(), signal.SIGKILL)

    return follow


def test_a_rank_that_died_is_taken_over_where_it_was(tmp_path: Path) -> None:
    """By one that is done with its own meanwhile: nobody need call again."""
    write_images(tmp_path / "i", 60)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    program = (
        "import sys; from pathlib import Path; "
        "from tests.captioner.run.test_sharing import die_after, run_rank; "
        "run_rank(Path(sys.argv[1]), Path(sys.argv[2]), 1, 2, on_progress=die_after(6))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "i"), str(tmp_path / "out")]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    leases = tmp_path / "out" / "leases"
    dead = os.listdir(leases)
    assert "00001" in dead
    looked: list[str] = []

    def hear(line: str) -> None:
        if "left to rank 1 of 2: checking whether they are being worked on" in line:
            looked.append(line)
            end_leases(leases, *dead)

    heir = run_rank(tmp_path / "i", tmp_path / "out", 0, 2, on_event=hear)
    # It repeats nothing that was journaled.
    assert heir.complete and not heir.elsewhere and heir.generated == 60 - 6
    assert len(looked) == 1
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_a_rank_that_lives_keeps_its_shards(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 60)
    with Leases(tmp_path / "out" / "leases", owner="rank 2 of 3") as living:
        assert living.take("00002") and living.take("00005")
        result = run_rank(tmp_path / "i", tmp_path / "out", 0, 3)
        assert not result.complete and not result.interrupted and result.generated == 40
        assert result.elsewhere == {"rank 2 of 3": 2}
    assert run_rank(tmp_path / "i", tmp_path / "out", 2, 3).complete


def test_of_many_ranks_that_die_at_once_the_last_one_ends_the_run(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 80)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    leases, names = tmp_path / "out" / "leases", [f"{rank:05d}" for rank in range(1, 4)]
    for rank, name in enumerate(names, start=1):
        # Their threads, which would renew them, are never started.
        assert Leases(leases, owner=f"rank {rank} of 5").take(name)
    results: list[CaptionResult] = []
    looked: list[str] = []
    before = meet(2)

    def hear(line: str) -> None:
        if "checking whether" in line:
            looked.append(line)
            if len(looked) == 1:
                end_leases(leases, *names)

    def work(rank: int) -> None:
        results.append(
            run_rank(tmp_path / "i", tmp_path / "out", rank, 5, before=before, on_event=hear)
        )

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looked and any(result.complete for result in results)
    # Two may take over the same at once, which wastes work and does no harm.
    assert sum(result.generated for result in results) >= 80
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert not leases.exists()


def test_a_stop_is_heard_while_others_are_looked_at(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    dead = Leases(tmp_path / "out" / "leases", owner="rank 1 of 2")
    assert dead.take("00001")
    stopped = threading.Event()
    result = run_rank(
        tmp_path / "i",
        tmp_path / "out",
        0,
        2,
        stop=stopped.is_set,
        on_event=lambda line: stopped.set() if "checking whether" in line else None,
    )
    assert result.interrupted and result.generated == 10 and not result.complete


def test_an_owner_whose_lease_was_taken_does_no_harm(tmp_path: Path) -> None:
    """Two at work on the same shards, as after a long pause: work is wasted, nothing else."""
    write_images(tmp_path / "i", 50)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    results: list[CaptionResult] = []
    before = meet(2)

    def work() -> None:
        # The same rank twice: both believe that every lease is theirs.
        results.append(run_rank(tmp_path / "i", tmp_path / "out", 0, 2, before=before))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and read_run(tmp_path / "out")["complete"]
    assert sum(result.generated for result in results) >= 50
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_ranks_killed_at_random(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 80)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    program = (
        "import sys; from pathlib import Path; "
        "from tests.captioner.run.test_sharing import run_rank; "
        "from tests.captioner.scripted_run import tell_until; "
        "run_rank(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), 2, seconds=0.03, "
        "on_progress=tell_until(12))"
    )
    draw = random.Random(0)
    for _ in range(3):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path / "i"), str(tmp_path / "out"), rank],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            for rank in "01"
        ]
        for process in processes:
            assert process.stdout is not None
            for _ in range(draw.randint(1, 12)):
                process.stdout.readline()
        time.sleep(draw.uniform(0, 0.03))
        for process in processes:
            process.kill()
            process.communicate()
    assert not read_run(tmp_path / "out")["complete"]
    end_leases(tmp_path / "out" / "leases")
    assert run_rank(tmp_path / "i", tmp_path / "out", 0, 2).complete
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_one_that_wants_the_folder_alone_waits_for_ranks(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 60)
    tried = threading.Event()
    thread = threading.Thread(
        target=run_rank,
        args=(tmp_path / "i", tmp_path / "out", 0, 2),
        kwargs={"before": lambda: tried.wait(HANG_SECONDS)},
    )
    thread.start()
    try:
        wait_until((tmp_path / "out" / "run.json").exists)
        with pytest.raises(UserError, match="another process is writing to"):
            run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    finally:
        tried.set()
        thread.join()


def test_ranks_of_different_settings_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    run_rank(tmp_path / "i", tmp_path / "out", 0, 2)
    with pytest.raises(UserError, match="sampling.seed: 0 -> 5"):
        run_rank(tmp_path / "i", tmp_path / "out", 1, 2, seed=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "world_size": 2}, "--rank must be from 0 to 1, not 2"),
        ({"cluster": "ray", "world_size": 2}, "omit --world-size"),
        ({"cluster_engines": 2}, "require --cluster"),
    ],
)
def test_placements_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Placement(**arguments)


def break_images(images: Path, *numbers: int) -> dict[Path, bytes]:
    """Empty some images; returns what they were."""
    paths = [images / f"{number:04d}.png" for number in numbers]
    before = {path: path.read_bytes() for path in paths}
    for path in paths:
        path.write_bytes(b"")
    return before


def test_ranks_retry_errors_together(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 60)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    broken = break_images(tmp_path / "i", 3, 14, 25, 36, 47, 58)
    assert run_rank(tmp_path / "i", tmp_path / "out", 0, 2).errors == 6
    for path, content in broken.items():
        path.write_bytes(content)
    results: list[CaptionResult] = []

    def work(rank: int) -> None:
        results.append(run_rank(tmp_path / "i", tmp_path / "out", rank, 2, retry_errors=True))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run_rank(tmp_path / "i", tmp_path / "out", 0, 2)
    assert verify_run(tmp_path / "out").ok
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_what_was_left_behind_meanwhile_is_taken_in_the_same_go(tmp_path: Path) -> None:
    """A shard that was another's when we passed it, and is free when we are done with ours."""
    write_images(tmp_path / "i", 60)
    (tmp_path / "out" / "leases").mkdir(parents=True)
    lease = tmp_path / "out" / "leases" / "00001"
    lease.write_text("rank 1 of 2")

    def follow(progress: Progress) -> None:
        if progress.done == 50:
            lease.unlink()

    result = run_rank(tmp_path / "i", tmp_path / "out", 0, 2, on_progress=follow)
    assert result.complete and result.generated == 60


def test_one_that_is_late_does_not_take_completeness_back(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    assert run_rank(tmp_path / "i", tmp_path / "out", 0, 2).complete
    prepared = prepare_caption(
        CaptionConfig.of(
            model="any",
            engine="scripted",
            images=tmp_path / "i",
            out=tmp_path / "out",
            shard_size=10,
            placement=Placement(rank=1, world_size=2),
        )
    )
    # As if it had looked before the other was done.
    late = replace(prepared, previous={**(prepared.previous or {}), "complete": False})
    run_prepared(late, stop=lambda: True)
    assert read_run(tmp_path / "out")["complete"]


class _SlowToClose(ScriptedEngine):
    """Waits with its end until `before` comes back."""

    def __init__(self, before: Callable[[], object]) -> None:
        super().__init__()
        self._before = before

    def close(self) -> None:
        self._before()
        super().close()


def prepare_rank(images: Path, out: Path, rank: int, size: int, **options: Any) -> PreparedRun:
    placement = Placement(rank=rank, world_size=size)
    arguments = {"model": "any", "engine": "scripted", "shard_size": 10, "placement": placement}
    return prepare_caption(CaptionConfig.of(images=images, out=out, **(arguments | options)))


def test_a_rank_that_ends_late_writes_what_the_others_have_finished(tmp_path: Path) -> None:
    """It closes its engine while another one ends the run: its own counts are old by then."""
    write_images(tmp_path / "i", 40)
    prepared = prepare_rank(tmp_path / "i", tmp_path / "out", 0, 2)

    def finish_elsewhere() -> None:
        assert run_rank(tmp_path / "i", tmp_path / "out", 1, 2).complete

    choice = replace(prepared.choice, start=lambda _: _SlowToClose(finish_elsewhere))
    with Leases(tmp_path / "out" / "leases", owner="rank 1 of 2") as living:
        assert living.take("00001") and living.take("00003")
        late = run_prepared(replace(prepared, choice=choice))
    run = read_run(tmp_path / "out")
    assert run["complete"] and run["counts"]["rows"] == 40 and late.rows == 40 and late.complete
    assert verify_run(tmp_path / "out").ok


def test_counts_that_are_wrong_are_healed_by_the_next_run(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    whole = run_rank(tmp_path / "i", tmp_path / "out", 0, 2)
    path = tmp_path / "out" / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps(run | {"counts": {"rows": 0}, "statuses": {}, "flags": {}}))
    assert not verify_run(tmp_path / "out").ok
    assert run_rank(tmp_path / "i", tmp_path / "out", 1, 2).rows == whole.rows == 20
    assert verify_run(tmp_path / "out").ok
