"""A run that grows: new images in new shards, and what was there stays as it is."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from captioner.engine.scripted import ScriptedEngine
from captioner.run.session import CaptionResult, caption, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from captioner.store.repair import repair_run
from captioner.store.verification import verify_run
from data.dense.receipts import RECEIPTS_NAME
from data.dense.run import PLAN_NAME, RUN_NAME, read_run
from data.dense.shards import list_shards, read_rows
from data.errors import UserError
from tests.captioner.images import write_images

FIRST = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]


def run(images: Path, out: Path, **options: Any) -> CaptionResult:
    given = {"model": "any", "engine": "scripted", "images": images, "out": out, "shard_size": 4}
    return caption(**{**given, **options})


def read_shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in list_shards(folder)}


def list_names(folder: Path) -> list[str]:
    return read_rows(folder).column("file_name").to_pylist()


def begin(tmp_path: Path, **options: Any) -> tuple[Path, Path, dict[str, bytes]]:
    """A finished run of six images in two shards, the second of which is half full."""
    images, out = tmp_path / "i", tmp_path / "out"
    write_images(images, 6)
    assert run(images, out, **options).complete
    before = read_shards(out)
    assert list(before) == FIRST
    return images, out, before


def add(images: Path, *names: str) -> None:
    for number, name in enumerate(names):
        Image.new("RGB", (32, 24), (number, 99, 0)).save(images / name)


def test_new_images_are_in_new_shards(tmp_path: Path) -> None:
    images, out, before = begin(tmp_path)
    # One that comes before all others by its name, too.
    add(images, "0000-a.png", "9.png", "8.png", "7.png", "6.png")
    assert run(images, out).new_images == 5
    result = run(images, out, append=True)
    assert (result.complete, result.rows, result.generated, result.new_images) == (True, 11, 5, 0)
    after = read_shards(out)
    new = ["train-00002-of-00004.parquet", "train-00003-of-00004.parquet"]
    assert list(after) == [*FIRST, *new] and before.items() <= after.items()
    old = [f"{n:04d}.png" for n in range(6)]
    assert list_names(out) == [*old, "0000-a.png", "6.png", "7.png", "8.png", "9.png"]
    assert verify_run(out).ok
    record = read_run(out)
    assert (record["planned"], record["shards"], len(record["additions"])) == (11, 4, 1)
    # Once more, with the option and without; and again.
    for again in ({"append": True}, {}):
        assert run(images, out, **again).generated == 0
    add(images, "5.png")
    assert run(images, out, append=True).rows == 12
    assert after.items() <= read_shards(out).items() and verify_run(out).ok
    assert "train-00004-of-00005.parquet" in read_shards(out)


def test_where_nothing_lies_it_begins(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 6)
    assert run(tmp_path / "i", tmp_path / "out", append=True).complete
    assert list(read_shards(tmp_path / "out")) == FIRST
    assert "additions" not in read_run(tmp_path / "out")


def test_a_raised_limit(tmp_path: Path) -> None:
    images, out, before = begin(tmp_path, limit=6)
    write_images(images, 20)
    with pytest.raises(UserError, match=r"limit: 6 -> 9.*--append"):
        run(images, out, limit=9)
    assert run(images, out, limit=9, append=True).rows == 9
    assert before.items() <= read_shards(out).items()
    assert list_names(out) == [f"{n:04d}.png" for n in range(9)]
    # Taken up as it is now; less is not what it is, more is another addition.
    assert run(images, out, limit=9).generated == 0
    for less, told in (({"limit": 6}, "limit: 9 -> 6"), ({"limit": 6, "append": True}, "9 -> 6")):
        with pytest.raises(UserError, match=told) as caught:
            run(images, out, **less)
        assert "--append" not in str(caught.value)
    with pytest.raises(UserError, match=r"limit: 9 -> None.*--append"):
        run(images, out)
    assert run(images, out, append=True).rows == 20
    assert list_names(out) == [f"{n:04d}.png" for n in range(20)] and verify_run(out).ok


@pytest.mark.parametrize("kind", ["tar", "list"])
def test_a_raised_limit_and_a_longer_list(tmp_path: Path, kind: str) -> None:
    images, out = tmp_path / "i", tmp_path / "out"
    names = write_images(images, 9)
    source = tmp_path / f"set.{'tar' if kind == 'tar' else 'txt'}"
    more: dict[str, Any] = {"image_root": images} if kind == "list" else {"limit": 6}
    if kind == "tar":
        subprocess.run(["tar", "-cf", source, "-C", images, *names], check=True)
    else:
        source.write_text("\n".join(reversed(names[:6])))
    assert run(source, out, **more).rows == 6
    before = read_shards(out)
    if kind == "tar":
        more = {}
    else:
        source.write_text("\n".join([names[8], *reversed(names[:6]), *names[6:8]]))
    assert run(source, out, append=True, **more).rows == 9
    assert before.items() <= read_shards(out).items() and verify_run(out).ok
    assert len(list_names(out)) == 9


def test_what_is_gone_or_in_another_order_is_refused(tmp_path: Path) -> None:
    images, out = tmp_path / "i", tmp_path / "out"
    names, source = write_images(images, 8), tmp_path / "set.txt"
    source.write_text("\n".join(names[:6]))
    run(source, out, image_root=images)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for lines, told in (
        ([*names[:5], *names[6:]], r"1 of its images are missing \(for example 0005.png"),
        ([*names[1:], names[0]], "another order"),
    ):
        source.write_text("\n".join(lines))
        with pytest.raises(UserError, match=told):
            run(source, out, image_root=images, append=True)
    with pytest.raises(UserError, match="other settings") as caught:
        run(source, out, image_root=images, append=True, prompt="Else?")
    assert "--append" not in str(caught.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_flags_that_were_set_stay(tmp_path: Path) -> None:
    """A text that comes again only later is a duplicate there, and not where it was before."""

    class Parrot(ScriptedEngine):
        def collect(self) -> list[Any]:
            return [replace(g, text="A red bus on a road. " * 20) for g in super().collect()]

    def say(images: Path, out: Path) -> None:
        options = {"model": "any", "engine": "scripted", "shard_size": 4, "append": True}
        prepared = prepare_caption(CaptionConfig.of(images=images, out=out, **options))
        run_prepared(replace(prepared, choice=replace(prepared.choice, start=lambda _: Parrot())))

    images, out = tmp_path / "i", tmp_path / "out"
    write_images(images, 2)
    say(images, out)
    before = read_shards(out)
    write_images(images, 3)
    say(images, out)
    assert before.items() <= read_shards(out).items() and verify_run(out).ok
    flags = read_rows(out).column("flags").to_pylist()
    assert ["duplicate" in named for named in flags] == [False, False, True]


def test_grown_while_unfinished_and_killed(tmp_path: Path) -> None:
    """Whenever it stops, what is there at the end is the same."""
    images, out = tmp_path / "i", tmp_path / "out"
    write_images(images, 10)
    chance = random.Random(3)

    def stop_after(texts: int) -> Callable[[], bool]:
        asked = iter(range(texts))
        return lambda: next(asked, None) is None

    def go(out: Path, stop: Callable[[], bool] = lambda: False, **options: Any) -> CaptionResult:
        config = CaptionConfig.of(
            model="any", engine="scripted", images=images, out=out, shard_size=4, **options
        )
        return run_prepared(prepare_caption(config), stop=stop)

    go(out, stop_after(chance.randrange(3, 9)))
    go(tmp_path / "calm")
    add(images, "x.png", "a.png")
    for number in range(4):
        # With the option and without: once planned, they belong to the run.
        go(out, stop_after(chance.randrange(2, 9)), append=number % 2 == 0)
    assert go(out).complete and go(tmp_path / "calm", append=True).complete
    assert read_shards(out) == read_shards(tmp_path / "calm")
    assert verify_run(out).ok


def test_killed_between_the_plan_and_the_record(tmp_path: Path) -> None:
    images, out, before = begin(tmp_path)
    records = {out / name: (out / name).read_bytes() for name in (RUN_NAME, RECEIPTS_NAME)}
    add(images, "x.png")
    run(images, out, append=True)
    for path, content in records.items():
        path.write_bytes(content)
    (out / "train-00002-of-00003.parquet").unlink()
    assert not verify_run(out).ok
    assert read_rows(out).num_rows == 6
    assert run(images, out).rows == 7
    assert before.items() <= read_shards(out).items() and verify_run(out).ok


def test_records_that_are_lost(tmp_path: Path) -> None:
    images, out, _ = begin(tmp_path, limit=6)
    write_images(images, 9)
    run(images, out, append=True)
    after = read_shards(out)
    (out / RUN_NAME).unlink()
    repair_run(out)
    assert verify_run(out).ok and len(read_run(out)["additions"]) == 1
    assert run(images, out).generated == 0
    (out / PLAN_NAME).unlink()
    assert run(images, out).complete
    assert read_shards(out) == after and verify_run(out).ok
    (out / PLAN_NAME).unlink()
    for path in sorted(images.iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match="the plan is lost"):
        run(images, out)


def test_errors_of_both_parts_are_tried_again(tmp_path: Path) -> None:
    images, out = tmp_path / "i", tmp_path / "out"
    write_images(images, 6)
    whole = (images / "0001.png").read_bytes()
    (images / "0001.png").write_bytes(b"broken")
    run(images, out)
    add(images, "x.png", "y.png")
    (images / "x.png").write_bytes(b"broken")
    assert run(images, out, append=True).errors == 2
    for name in ("0001.png", "x.png"):
        (images / name).write_bytes(whole)
    assert run(images, out, retry_errors=True).errors == 0
    assert verify_run(out).ok


def test_ranks_grow_together(tmp_path: Path) -> None:
    images, out, before = begin(tmp_path)
    write_images(images, 30)
    results: list[CaptionResult] = []

    def work(rank: int) -> None:
        results.append(run(images, out, append=True, rank=rank, world_size=3))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and run(images, out).complete
    assert before.items() <= read_shards(out).items() and verify_run(out).ok
    assert len(read_run(out)["additions"]) == 1 and read_rows(out).num_rows == 30


def test_a_rank_of_before_leaves_the_record_to_those_who_grew_it(tmp_path: Path) -> None:
    images, out, _ = begin(tmp_path)
    late = prepare_caption(
        CaptionConfig.of(
            **{"model": "any", "engine": "scripted", "images": images, "out": out},
            shard_size=4,
            world_size=2,
            retry_errors=True,
        )
    )
    (out / FIRST[1]).unlink()

    def grow(_: object) -> ScriptedEngine:
        write_images(images, 9)
        assert run(images, out, append=True, rank=1, world_size=2).rows == 9
        return ScriptedEngine()

    run_prepared(replace(late, choice=replace(late.choice, start=grow)))
    assert verify_run(out).ok and read_run(out)["planned"] == 9


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path) -> None:
    images, out, _ = begin(tmp_path)
    add(images, "x.png")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    command = ["caption", "--model", "any", "--engine", "scripted", "--images", str(images)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipelines.cli", *command, "--out", str(out)),
            *("--shard-size", "4", "--append", "--dry-run", "--json"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert (told["images"], told["shards"], told["done"]) == (7, 3, 6)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_plan_tells_its_parts(tmp_path: Path) -> None:
    images, out, _ = begin(tmp_path)
    add(images, "x.png", "y.png")
    run(images, out, append=True)
    table = pq.read_table(out / PLAN_NAME, partitioning=None)
    assert table["shard"].to_pylist() == [0] * 4 + [1] * 2 + [2] * 2
    assert table["row"].to_pylist() == [0, 1, 2, 3, 0, 1, 0, 1]
