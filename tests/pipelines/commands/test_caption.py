"""`d2s caption` as a user types it, with the scripted engine; bad input item by item."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import psutil
import pytest
from huggingface_hub import constants
from PIL import Image

from captioner.engine.scripted import ScriptedEngine
from captioner.engine.vllm_process import list_devices
from captioner.run.forecast import try_images
from captioner.run.session import run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from captioner.store.leases import Leases
from data.dense.shards import read_rows
from pipelines import cli
from pipelines.commands.caption import caption
from tests.captioner.images import write_images
from tests.captioner.leases import keep_leases
from tests.captioner.llava.test_weights import fill_cache
from tests.data.test_images import make_bomb
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


def d2s(*arguments: object) -> int:
    scripted = ["--engine", "scripted", "--model", "any"]
    return cli.run(["caption", *scripted, *(str(argument) for argument in arguments)])


def rows_of(out: Path) -> dict[str, dict[str, object]]:
    return {row["file_name"]: row for row in read_rows(out).to_pylist()}


@pytest.fixture(autouse=True)
def _stand_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_default_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "coco", 3)
    assert d2s("--images", "coco/") == 0
    assert read_rows(tmp_path / "dense" / "coco").num_rows == 3
    said = capsys.readouterr()
    assert said.out.startswith("3 of 3 rows in dense/coco: 3 ok\n")
    assert "images/s" in said.out
    assert "caption: 3 of 3 images" in said.err
    os.chdir("coco")
    assert d2s("--images", ".", "--out", "../o") == 0
    assert d2s("--images", ".") == 0
    assert Path("dense/coco/run.json").is_file()


def test_json_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "i", 3)
    (tmp_path / "i" / "x.jpg").write_text("text")
    assert d2s("--images", "i", "--json") == 3
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["ok"], result["errors"]) == (4, 3, 1)
    assert result["statuses"] == {"decode_error": 1, "ok": 3} and result["complete"] is True
    assert result["directory"] == "dense/i"


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "i", 5)
    assert d2s("--images", "i", "--shard-size", 2, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "5 in i\n" in said and "3 of 2 rows in dense/i (new)" in said
    assert "passed over" not in said
    assert d2s("--images", "i", "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["images"] == 5 and said["forecast"]["tried"] == 5
    assert not (tmp_path / "dense").exists()


def test_a_run_tells_what_it_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "i", 9)
    assert d2s("--images", "i", "--price", "3600000") == 0
    said = capsys.readouterr().err
    found = re.search(r"9 of 9 images.*cost (\d[\d,]*\.\d\d) of (\d[\d,]*\.\d\d)", said)
    assert found is not None and found[1] == found[2] != "0.00"
    assert d2s("--images", "i", "--out", "again") == 0
    assert "cost" not in capsys.readouterr().err


def test_a_dry_run_tells_time_and_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "i", 70)
    dry = ["--images", "i", "--dry-run", "--price", "3600", "--json"]
    assert d2s(*dry) == 0
    said = json.loads(capsys.readouterr().out)
    found, cost = said["forecast"], said["cost"]
    assert (found["tried"], found["ok"], found["remaining"]) == (64, 64, 70)
    for name in ("hours", "tokens", "disk"):
        assert 0 < found[name]["low"] <= found[name]["likely"] <= found[name]["high"]
    assert cost["high"] == pytest.approx(3600 * found["hours"]["high"]) and found["gpus"] == 0
    assert found["memory"] > 0 and not (tmp_path / "dense").exists()
    # Eight jobs take an eighth of the time, and as many machine hours.
    assert d2s(*dry, "--world-size", "8", "--trial", "8") == 0
    assert json.loads(capsys.readouterr().out)["forecast"]["ranks"] == 8
    assert d2s("--images", "i", "--dry-run", "--trial", "0") == 0
    assert "no trial was run" in capsys.readouterr().out
    # Half of it is done, and a run that is done has nothing left to try.
    assert d2s("--images", "i") == 0
    capsys.readouterr()
    assert d2s(*dry) == 0
    assert json.loads(capsys.readouterr().out)["forecast"] is None


def test_the_rows_of_a_run_take_the_disk_that_was_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "i", 120)
    assert d2s("--images", "i", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)["forecast"]["disk"]
    assert d2s("--images", "i") == 0
    true = sum(path.stat().st_size for path in Path("dense/i").glob("*.parquet"))
    assert told["low"] / 1.2 <= true <= told["high"] * 1.2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dry-run", "--price", "cheap"], "--price"),
        (["--dry-run", "--price", "nan"], "--price"),
        (["--dry-run", "--price", "-1"], "--price"),
        (["--price", "inf"], "--price"),
        (["--trial", "2"], "--dry-run"),
    ],
)
def test_a_price_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    write_images(tmp_path / "i", 1)
    assert d2s("--images", "i", *words) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "dense").exists()


def test_a_trial_without_a_text_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "a.jpg").write_text("no image")
    assert d2s("--images", "i", "--dry-run") == 1
    assert "none of the 1 images" in capsys.readouterr().err


def test_a_trial_on_a_slow_machine_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 70)
    monkeypatch.setattr("captioner.run.forecast._MOST_SECONDS", 0)
    prepared = prepare_caption(CaptionConfig.of(model="m", engine="scripted", images=Path("i")))
    slow = ScriptedEngine(window=35, seconds_per_step=0.05)
    choice = replace(prepared.choice, start=lambda _: slow)
    found = try_images(replace(prepared, choice=choice))
    assert found is not None and 16 <= found.tried < 70
    asked = try_images(replace(prepared, choice=choice), stop=lambda: True)
    assert asked is None and not (tmp_path / "dense").exists()


def test_the_start_tells_what_was_found_and_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "i", 3)
    for name in ("a.HEIC", "b.heic", "LICENSE"):
        (tmp_path / "i" / name).write_text("")
    assert d2s("--images", "i", "--prompt", "Say it.") == 0
    said = capsys.readouterr()
    assert "images   3 in i\n" in said.err and "prompt   Say it.\n" in said.err
    assert "skipped 3 files that are not images: 2 .heic, 1 without suffix\n" in said.err
    assert "in dense/i (new)\n" in said.err and "model    any (scripted)\n" in said.err
    assert "passed over" not in said.out
    shipped = ["caption", "--model", "llava-scenes", "--images", "i", "--out", "o"]
    assert cli.run([*shipped, "--dry-run", "--trial", "0"]) == 0
    assert re.search(r"llava-scenes \(sha256:\w+\) in /.*llava-scenes\n", capsys.readouterr().out)


def test_the_help_tells_the_papers_sampling() -> None:
    options = {option.name: option for option in caption.params}
    assert (options["temperature"].default, options["top_p"].default) == (0.2, 0.9)
    assert options["max_tokens"].default == 512
    assert options["engine"].hidden  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--shard-size", "0"],
        ["--limit", "0"],
        ["--temperature", "-1"],
        ["--aspect", "stretch"],
        ["--max-image-pixels", "0"],
        ["--no-such-option"],
    ],
)
def test_usage(tmp_path: Path, wrong: list[str]) -> None:
    write_images(tmp_path / "i", 1)
    assert d2s("--images", "i", *wrong) == 2
    assert not (tmp_path / "dense").exists()


def test_missing_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert d2s("--images", "nowhere") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--images nowhere" in said


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "i").mkdir()
    assert d2s("--images", "i") == 1
    assert capsys.readouterr().err.startswith("d2s: error: no images in i")
    assert not (tmp_path / "dense").exists()


def save(path: Path, image: Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def test_odd_images_are_captioned(tmp_path: Path) -> None:
    folder, colour = tmp_path / "i", (200, 30, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "cmyk.jpg", Image.new("CMYK", (30, 20), (9, 200, 200, 0)))
    save(folder / "exif.jpg", Image.new("RGB", (30, 20), colour), exif=exif)
    save(folder / "grey.jpg", Image.new("L", (30, 20), 100))
    save(folder / "rgba.png", Image.new("RGBA", (30, 20), (*colour, 90)))
    save(folder / "sixteen.png", Image.new("I;16", (30, 20), 40_000))
    frames = [Image.new("P", (30, 20), number) for number in range(3)]
    save(folder / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert d2s("--images", "i") == 0
    rows = rows_of(tmp_path / "dense" / "i")
    assert {row["status"] for row in rows.values()} == {"ok"} and len(rows) == 6
    assert (rows["exif.jpg"]["width"], rows["exif.jpg"]["height"]) == (20, 30)
    assert (rows["rgba.png"]["width"], rows["rgba.png"]["height"]) == (30, 20)


@pytest.mark.parametrize(
    ("name", "content", "status", "error"),
    [
        ("text.jpg", b"not an image at all", "decode_error", "not an image in a known format"),
        ("empty.jpg", b"", "decode_error", "the file is empty"),
        ("huge.png", make_bomb(30_000), "too_large", "30,000 x 30,000"),
        ("cut.png", None, "decode_error", "damaged"),
    ],
)
def test_one_broken_image_is_one_row(
    tmp_path: Path, name: str, content: bytes | None, status: str, error: str
) -> None:
    names = write_images(tmp_path / "i", 4)
    whole = (tmp_path / "i" / names[1]).read_bytes()
    (tmp_path / "i" / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert d2s("--images", "i") == 3
    rows = rows_of(tmp_path / "dense" / "i")
    assert list(rows) == sorted([*names, name])
    assert rows[name]["status"] == status and error in str(rows[name]["error"])
    assert rows[name]["caption"] is None
    assert all(rows[good]["status"] == "ok" for good in names)


def test_the_same_name_in_two_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 2, prefix="one/")
    write_images(tmp_path / "i", 2, prefix="two/")
    assert d2s("--images", "i") == 0
    rows = rows_of(tmp_path / "dense" / "i")
    assert list(rows) == ["one/0000.png", "one/0001.png", "two/0000.png", "two/0001.png"]
    assert len({row["sample_id"] for row in rows.values()}) == 4
    assert rows["one/0000.png"]["image_sha256"] == rows["two/0000.png"]["image_sha256"]


def test_the_output_of_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "i", 2)
    assert d2s("--images", "i") == 0
    capsys.readouterr()
    assert d2s("--images", "i", "--temperature", 0) == 1
    said = capsys.readouterr().err
    assert "sampling.temperature: 0.2 -> 0.0" in said and said.count("\n") == 1


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "i", 2)
    (tmp_path / "file").write_text("")
    assert d2s("--images", "i", "--out", "file/out") == 1
    assert "cannot write file/out" in capsys.readouterr().err


def test_weights_that_cannot_be_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "i", 2)
    assert cli.run(["caption", "--model", "llava-1.5-7b", "--images", "i"]) == 1
    said = capsys.readouterr().err
    assert "hf download llava-hf/llava-1.5-7b-hf" in said and said.count("\n") == 1
    assert cli.run(["caption", "--model", "llava-15-7b", "--images", "i"]) == 1
    assert "did you mean llava-1.5-7b?" in capsys.readouterr().err
    assert not (tmp_path / "dense").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is empty, and a Hub that answers but must not be asked for files."""
    info = SimpleNamespace(sha="c0ffee", siblings=[])
    find = huggingface_hub.snapshot_download

    def refuse_fetching(*names: str, **options: Any) -> str:
        assert options.get("local_files_only"), "the weights were fetched"
        return find(*names, **options)

    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse_fetching)
    return tmp_path / "cache"


def test_a_dry_run_fetches_nothing(
    tmp_path: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "i", 3)
    dry = ["caption", "--model", "llava-1.5-7b", "--images", "i", "--dry-run"]
    assert cli.run(dry) == 0
    told = "llava-hf/llava-1.5-7b-hf (c0ffee); its weights are not downloaded yet\n"
    assert told in capsys.readouterr().out
    assert cli.run([*dry, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["fingerprint"] is None and said["settings"]["revision"] == "c0ffee"


def test_a_finished_run_needs_no_weights(
    tmp_path: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "i", 3)
    (fill_cache(hub, whole=True) / "chat_template.jinja").write_text("{{ messages }}")
    again = ["caption", "--model", "llava-1.5-7b", "--images", "i"]
    prepared = prepare_caption(CaptionConfig.of(model="llava-1.5-7b", images=Path("i")))
    run_prepared(
        replace(prepared, choice=replace(prepared.choice, start=lambda _: ScriptedEngine()))
    )
    shutil.rmtree(hub)
    capsys.readouterr()
    assert cli.run(again) == 0
    assert "nothing left to do" in capsys.readouterr().out
    # A name for the same commit is the same run; other settings are refused as ever.
    assert cli.run([*again, "--revision", "v9"]) == 0
    assert cli.run([*again, "--temperature", "0"]) == cli.run([*again, "--aspect", "crop"]) == 1
    capsys.readouterr()
    assert cli.run([*again, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == prepared.fingerprint
    (tmp_path / "dense" / "i" / "train-00000-of-00001.parquet").unlink()
    assert cli.run(again) == 1
    assert "run the same command again to download them" in capsys.readouterr().err
    assert json.loads((tmp_path / "dense" / "i" / "run.json").read_text())["complete"] is False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state(tmp_path: Path, number: signal.Signals) -> None:
    write_images(tmp_path / "i", 300)
    command = [sys.executable, "-m", "tests.captioner.held", "caption", "--engine", "scripted"]
    command += ["--model", "any", "--images", str(tmp_path / "i"), "--out", str(tmp_path / "o")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal = tmp_path / "o" / "journal" / "00000.jsonl"
    wait_until(lambda: process.poll() is not None or (journal.is_file() and journal.stat().st_size))
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == 130
    assert b"images are saved" in told and b"run the same command again" in told
    assert json.loads((tmp_path / "o" / "run.json").read_text())["complete"] is False
    saved = journal.read_bytes().count(b"\n")
    assert 0 < saved < 300
    last = json.loads((tmp_path / "o" / "events.jsonl").read_text().splitlines()[-1])
    assert (last["ended"], last["images"], last["left"]) == ("interrupted", saved, 300 - saved)
    assert d2s("--images", tmp_path / "i", "--out", tmp_path / "o", "--json") == 0
    assert read_rows(tmp_path / "o").num_rows == 300


def test_ctrl_c_while_decoders_start_leaves_no_process_and_no_error(tmp_path: Path) -> None:
    """In a terminal it reaches the whole group at once."""
    write_images(tmp_path / "i", 40)
    command = [sys.executable, "-m", "tests.captioner.held", "caption", "--engine", "scripted"]
    command += ["--model", "any", "--images", str(tmp_path / "i"), "--out", str(tmp_path / "o")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    decoders = psutil.Process(process.pid).children
    wait_until(lambda: process.poll() is not None or decoders())
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130 and b"Traceback" not in told
    wait_until(lambda: process.pid not in map(find_session, psutil.pids()))
    assert d2s("--images", tmp_path / "i", "--out", tmp_path / "o") == 0
    assert read_rows(tmp_path / "o", ["status"]).column("status").to_pylist() == ["ok"] * 40


def find_session(pid: int) -> int | None:
    """None for a process that has ended."""
    with contextlib.suppress(OSError, psutil.Error):
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    return None


def test_other_sources_as_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "i", 4)
    Path("i/list.txt").write_text(f"{names[2]}\n{names[0]}\n{names[2]}\n")
    assert d2s("--images", "i/list.txt") == 0
    said = capsys.readouterr()
    assert "1 lines of list.txt repeat an earlier one" in said.err
    assert list(rows_of(Path("dense/list"))) == [names[2], names[0]]
    with Path("i/list.txt").open("a") as file:
        file.write(f"{names[1]}\n")
    assert d2s("--images", "i/list.txt") == 0
    told = "1 images in i/list.txt are not part of this run and are ignored"
    assert told in capsys.readouterr().err
    assert d2s("--images", "i/*1.png", "--out", "o") == 0
    assert list(rows_of(Path("o"))) == [names[1]]
    Path("captions.txt").write_text(f"image,caption\n{names[3]},a kettle\n{names[3]},a pot\n")
    assert d2s("--images", "i", "--captions", "captions.txt") == 0
    assert "1 of 4 images have human captions in captions.txt" in capsys.readouterr().err
    assert rows_of(Path("dense/i"))[names[3]]["captions"] == ["a kettle", "a pot"]


def test_what_is_left_to_others_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_leases(monkeypatch)
    write_images(tmp_path / "i", 12)
    first = ["--images", "i", "--shard-size", 4, "--world-size", 2]
    # A lease of somebody who is at work.
    with Leases(tmp_path / "dense" / "i" / "leases", owner="rank 1 of 2") as other:
        assert other.take("00001")
        assert d2s(*first, "--rank", 0) == 0
    said = capsys.readouterr()
    assert "shards are being written elsewhere (1 with rank 1 of 2); the last job" in said.out
    assert "1 shards are left to rank 1 of 2: checking whether they are being worked on" in said.err
    assert d2s(*first, "--rank", 1) == 0
    assert "12 of 12 rows" in capsys.readouterr().out


def test_what_is_left_to_nobody_is_a_partial_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 12)
    first = ["--images", "i", "--shard-size", 4, "--world-size", 2]
    # In the place of a lease something that nobody can take.
    blocked = tmp_path / "dense" / "i" / "leases" / "00001"
    blocked.mkdir(parents=True)
    assert d2s(*first, "--rank", 0) == 3
    said = capsys.readouterr()
    assert "8 of 12 rows" in said.out
    assert "some shards are left that no job is working on; 8 of 12 images are saved in" in said.err
    assert "run the same command again to continue" in said.err
    blocked.rmdir()
    assert d2s(*first, "--rank", 0) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--repetition-penalty", "1.5"], "add --retry-flagged"),
        (["--rank", "1"], "--rank must be from 0 to 0, not 1"),
        (["--cluster-engines", "2"], "require --cluster"),
        (["--image-size", "224"], "--image-size works with --server"),
        (["--server-window", "4"], "--server-window works with --server"),
        (["--server-patience", "300"], "--server-patience works with --server"),
        (["--dtype", "float32"], "--dtype needs an engine with a model"),
        (["--silence", "60"], "--silence needs an engine with a model"),
        (["--split", "val"], "--split cannot be used with --images i"),
        (["--streaming"], "--streaming cannot be used with --images i"),
        (["--image-root", "i"], "--image-root cannot be used with --images i"),
        (["--id-column", "x"], "a column cannot be used with --images i"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    write_images(tmp_path / "i", 1)
    assert d2s("--images", "i", *wrong) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "dense").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--retry-flagged", "loop,lop"], "--retry-flagged accepts truncated, loop"),
        (["--captions", "nowhere.json"], "the captions nowhere.json do not exist"),
    ],
)
def test_options_that_cannot_be_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    write_images(tmp_path / "i", 1)
    assert d2s("--images", "i", *wrong) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_gpu_settings_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if list_devices():
        pytest.skip("there is a GPU here")
    write_images(tmp_path / "i", 1)
    for option in (["--gpu-memory", "0.5"], ["--tensor-parallel-size", "2"]):
        line = ["caption", "--model", "llava-scenes", "--images", "i", "--out", option[0][2:]]
        assert cli.run([*line, *option]) == 2
        assert f"{option[0]} needs a GPU, but there is none\n" in capsys.readouterr().err


def test_the_help_has_headings_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["caption", "--help"]) == 0
    said = capsys.readouterr().out
    headings = [
        "Images:",
        "Model:",
        "Text:",
        "Image preparation:",
        "Output:",
        "Long runs, several machines:",
    ]
    places = [said.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)
    for option in caption.params:
        hidden = getattr(option, "hidden", False)
        shown = re.search(rf"{option.opts[-1]}\b", said) is not None
        assert shown != hidden, option.opts
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    "option",
    [
        ["--silence", "5"],
        ["--memory-limit", "2"],
        ["--dtype", "float16"],
        ["--kv-cache-dtype", "fp8"],
        ["--engines", "2"],
        ["--tensor-parallel-size", "2"],
        ["--gpu-memory", "0.92"],
        ["--max-model-len", "900"],
        ["--revision", "main"],
    ],
)
def test_what_servers_do_not_heed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    write_images(tmp_path / "i", 1)
    line = ["caption", "--model", "m", "--images", "i", "--server", "http://127.0.0.1:9"]
    assert cli.run([*line, *option]) == 2
    said = capsys.readouterr().err
    assert option[0] in said and "omit it with" in said and said.count("\n") == 1
    assert not (tmp_path / "dense").exists()
