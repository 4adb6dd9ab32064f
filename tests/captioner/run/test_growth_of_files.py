"""A run of archives or tables that grows by more of them: what was there keeps its rows."""

import hashlib
import io
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.run.session import CaptionResult, caption, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import PreparedRun, needs_engine, prepare_caption
from captioner.store.repair import repair_run
from captioner.store.verification import verify_run
from data.dense.receipts import RECEIPTS_NAME
from data.dense.run import RUN_NAME, read_run
from data.dense.shards import list_shards, read_rows
from data.errors import UserError
from tests.captioner.run.texts import configure
from tests.data.sources.listing import write_table, write_tar

ROOT = Path(__file__).resolve().parents[3]


def make_photo(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (number, 99, 0)).save(file, "PNG")
    return file.getvalue()


NUMBERS = {hashlib.sha256(make_photo(number)).hexdigest(): number for number in range(20)}


def write_file(folder: Path, name: str, numbers: Iterable[int], *, alike: bool = False) -> None:
    """A tar or Parquet file of some photos; `alike` if they are called as those of other files."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [(f"{number:04}.png", make_photo(number)) for number in numbers]
    if alike:
        chosen = [(f"{place}.png", photo) for place, (_, photo) in enumerate(chosen)]
    (write_tar if name.endswith(".tar") else write_table)(folder / name, dict(chosen))


def configure_run(folder: Path, images: str, **options: Any) -> CaptionConfig:
    usual = {"model": "any", "engine": "scripted", "out": folder / "out", "shard_size": 4}
    return CaptionConfig.of(**{**usual, "images": f"{folder / 'set'}/{images}", **options})


def run(folder: Path, images: str, **options: Any) -> CaptionResult:
    return caption(configure_run(folder, images, **options))


def prepare(folder: Path, images: str, **options: Any) -> PreparedRun:
    return prepare_caption(configure_run(folder, images, **options))


def read_shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in list_shards(folder / "out")}


def list_photos(folder: Path) -> list[int]:
    """Which photo each row is of, by its content: that its place was read, and no other."""
    return [NUMBERS[row] for row in read_rows(folder / "out")["image_sha256"].to_pylist()]


def begin(folder: Path, kind: str = "tar", **options: Any) -> dict[str, bytes]:
    """A finished run of six photos in two files, and in two shards."""
    write_file(folder / "set", f"b-0.{kind}", range(3))
    write_file(folder / "set", f"b-2.{kind}", range(3, 6))
    assert run(folder, f"*.{kind}", **options).complete
    return read_shards(folder)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_files_that_come_later_are_added_wherever_their_names_lie(
    tmp_path: Path, kind: str
) -> None:
    before, images = begin(tmp_path, kind), f"*.{kind}"
    # Between those that were there, and ahead of them.
    write_file(tmp_path / "set", f"b-1.{kind}", range(6, 8))
    write_file(tmp_path / "set", f"a.{kind}", range(8, 11))
    left = prepare(tmp_path, images)
    assert any("2 files" in note and "--append" in note for note in left.notes)
    assert run(tmp_path, images).generated == 0 and read_shards(tmp_path) == before
    result = run(tmp_path, images, append=True)
    assert (result.complete, result.rows, result.generated, result.new_images) == (True, 11, 5, 0)
    after = read_shards(tmp_path)
    assert before.items() <= after.items() and len(after) == 4 and verify_run(tmp_path / "out").ok
    # The new ones in the order of their names.
    assert list_photos(tmp_path) == [*range(6), 8, 9, 10, 6, 7]
    for again in ({}, {"append": True}, {"retry_errors": True}):
        assert run(tmp_path, images, **again).generated == 0
    write_file(tmp_path / "set", f"0.{kind}", [11])
    assert run(tmp_path, images, append=True).rows == 12
    assert after.items() <= read_shards(tmp_path).items() and verify_run(tmp_path / "out").ok
    assert list_photos(tmp_path)[-1] == 11


def test_a_longer_range_in_braces(tmp_path: Path) -> None:
    for number in range(4):
        write_file(tmp_path / "set", f"x-{number:03}.tar", range(3 * number, 3 * number + 3))
    assert run(tmp_path, "x-{000..001}.tar").rows == 6
    before = read_shards(tmp_path)
    assert run(tmp_path, "x-{000..003}.tar", append=True).rows == 12
    assert before.items() <= read_shards(tmp_path).items() and verify_run(tmp_path / "out").ok
    assert list_photos(tmp_path) == list(range(12))
    # They belong to the run from then on.
    with pytest.raises(UserError, match=r"x-002.tar is missing, and so on for 1 more"):
        run(tmp_path, "x-{000..001}.tar")


@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize("first", ["unlike", "alike"])
def test_new_images_that_are_called_as_old_ones(tmp_path: Path, kind: str, first: str) -> None:
    """Rows that have a name twice go by their place: that does not rename those of before."""
    write_file(tmp_path / "set", f"b-0.{kind}", range(3), alike=True)
    write_file(tmp_path / "set", f"b-1.{kind}", range(3, 6), alike=first == "alike")
    assert run(tmp_path, f"*.{kind}").complete
    before = read_shards(tmp_path)
    write_file(tmp_path / "set", f"a.{kind}", range(6, 9), alike=True)
    write_file(tmp_path / "set/deep", f"b-0.{kind}", range(9, 11), alike=True)
    assert run(tmp_path, f"**/*.{kind}", append=True).rows == 11
    assert before.items() <= read_shards(tmp_path).items() and verify_run(tmp_path / "out").ok
    assert list_photos(tmp_path) == list(range(11))
    assert run(tmp_path, f"**/*.{kind}", append=True).generated == 0


def test_a_name_that_stands_for_an_old_image_is_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "set/deep", "b.tar", range(3))
    assert run(tmp_path, "**/*.tar").complete
    before = read_shards(tmp_path)
    write_file(tmp_path / "set", "b.tar", range(3))
    with pytest.raises(UserError, match="3 of the new images have the name of one that it has"):
        run(tmp_path, "**/*.tar", append=True)
    assert read_shards(tmp_path) == before


@pytest.mark.parametrize("append", [False, True])
def test_a_file_that_changed_or_is_gone_is_named(tmp_path: Path, append: bool) -> None:
    before = begin(tmp_path)
    write_file(tmp_path / "set", "c.tar", [6])
    write_file(tmp_path / "set", "b-2.tar", range(3, 5))
    with pytest.raises(UserError, match=r"b-2.tar has another size.*restore it"):
        run(tmp_path, "*.tar", append=append)
    (tmp_path / "set" / "b-2.tar").unlink()
    with pytest.raises(UserError, match=r"b-2.tar is missing.*restore it"):
        run(tmp_path, "*.tar", append=append)
    write_file(tmp_path / "set", "b-2.tar", range(3, 6))
    assert run(tmp_path, "*.tar", append=append).rows == (7 if append else 6)
    assert before.items() <= read_shards(tmp_path).items()


def test_a_limit_within_new_files(tmp_path: Path) -> None:
    begin(tmp_path, limit=5)
    write_file(tmp_path / "set", "b-1.tar", range(6, 9))
    # Up to the limit there is nothing new, and then the file is none of the run.
    assert run(tmp_path, "*.tar", limit=5, append=True).generated == 0
    assert len(read_run(tmp_path / "out")["source"]["options"]["files"]) == 2
    assert run(tmp_path, "*.tar", limit=8, append=True).rows == 8
    assert list_photos(tmp_path) == list(range(8))
    write_file(tmp_path / "set", "a.tar", [9])
    assert run(tmp_path, "*.tar", append=True).rows == 10
    assert list_photos(tmp_path) == list(range(10)) and verify_run(tmp_path / "out").ok


def test_killed_in_the_middle_of_an_addition(tmp_path: Path) -> None:
    before = begin(tmp_path)
    write_file(tmp_path / "set", "a.tar", range(6, 16))
    program = (
        "import sys; from captioner.engine.scripted import ScriptedEngine; "
        "from dataclasses import replace; from pathlib import Path; "
        "from captioner.run.session import run_prepared; "
        "from tests.captioner.run.test_growth_of_files import prepare; "
        "from tests.captioner.scripted_run import tell_until; "
        "run = prepare(Path(sys.argv[1]), '*.tar', append=True); "
        "choice = replace(run.choice, start=lambda _: ScriptedEngine(window=2)); "
        "run_prepared(replace(run, choice=choice), on_progress=tell_until(5))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(6):
        assert process.stdout.readline()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not verify_run(tmp_path / "out").ok
    # What was planned belongs to the run.
    again = run(tmp_path, "*.tar")
    assert again.complete and 0 < again.generated < 10
    assert before.items() <= read_shards(tmp_path).items() and verify_run(tmp_path / "out").ok
    assert list_photos(tmp_path) == list(range(16))


@pytest.mark.parametrize("repaired", [False, True])
def test_killed_between_the_plan_and_the_record(tmp_path: Path, repaired: bool) -> None:
    """Then the plan alone knows of the new file."""
    before, out = begin(tmp_path), tmp_path / "out"
    records = {out / name: (out / name).read_bytes() for name in (RUN_NAME, RECEIPTS_NAME)}
    write_file(tmp_path / "set", "a.tar", range(6, 9))
    assert run(tmp_path, "*.tar", append=True).complete
    for path, content in records.items():
        path.write_bytes(content)
    (out / "train-00002-of-00003.parquet").unlink()
    left = prepare(tmp_path, "*.tar")
    assert needs_engine(left.config, left.previous, left.plan)
    if repaired:
        repair_run(out)
    assert run(tmp_path, "*.tar").rows == 9 and verify_run(out).ok
    assert before.items() <= read_shards(tmp_path).items()
    assert list_photos(tmp_path) == list(range(9))
    assert len(read_run(out)["source"]["options"]["files"]) == 3
    done = prepare(tmp_path, "*.tar")
    assert not needs_engine(done.config, done.previous, done.plan)


def test_two_jobs_that_saw_other_files(tmp_path: Path) -> None:
    """Images are found by the number of their file: one's numbers are not the other's."""
    begin(tmp_path)
    write_file(tmp_path / "set", "c.tar", [6])
    first = prepare(tmp_path, "*.tar", append=True, world_size=2)
    write_file(tmp_path / "set", "a.tar", [7])
    second = prepare(tmp_path, "*.tar", append=True, world_size=2, rank=1)
    assert run_prepared(first).complete
    with pytest.raises(UserError, match="has added other files.*run the same command again"):
        run_prepared(second)
    assert run(tmp_path, "*.tar", append=True, world_size=2, rank=1).rows == 8
    assert list_photos(tmp_path) == list(range(8)) and verify_run(tmp_path / "out").ok


def test_several_texts_grow_alike(tmp_path: Path) -> None:
    texts: dict[str, Any] = {"a": "Describe it.", "b": "Shorter: {texts.a}"}
    options: dict[str, Any] = {"images": f"{tmp_path}/set/*.tar", "shard_size": 4}
    for name, numbers in (("b.tar", range(3)), ("a.tar", range(3, 6))):
        write_file(tmp_path / "set", name, numbers)
        result = caption(configure(tmp_path, texts, **options, append=True))
        assert result.complete
        options["images"] = f"{tmp_path}/set/*.tar"
    assert result.rows == 12
    for name in texts:
        rows = read_rows(tmp_path / "out" / name)["file_name"].to_pylist()
        assert [row.split("/")[0] for row in rows] == ["b.tar"] * 3 + ["a.tar"] * 3
        assert verify_run(tmp_path / "out" / name).ok


def test_a_project_that_grew_and_was_moved(tmp_path: Path) -> None:
    begin(tmp_path / "one")
    write_file(tmp_path / "one/set", "a.tar", range(6, 9))
    assert run(tmp_path / "one", "*.tar", append=True).complete
    (tmp_path / "one").rename(tmp_path / "two")
    assert run(tmp_path / "two", "*.tar").generated == 0
    write_file(tmp_path / "two/set", "0.tar", [9])
    assert run(tmp_path / "two", "*.tar", append=True).rows == 10
    assert list_photos(tmp_path / "two") == list(range(10))
