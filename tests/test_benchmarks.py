"""What a benchmark writes names the command as it was typed; a trial sees what differs."""

import argparse
import json
from pathlib import Path

import pytest

import vse
from benchmarks import caption_methods, caption_rate
from benchmarks.cluster import compare, kill_ranks
from benchmarks.documents import write_figures
from benchmarks.gpu import describe_run, read_part, run_part
from benchmarks.machinery import describe_memory, start_run
from captioner.settings.config import CaptionConfig
from pipelines.workflow.machine import name_machine
from tests.captioner.images import write_images
from tests.waiting import HANG_SECONDS


def test_a_document_names_no_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x/rate.py", "--docs", str(tmp_path / "docs")])
    write_figures(tmp_path / "docs", "rate", title="Rate", text="| 1 |\n", figures={"rate": 1})
    assert "`python -m benchmarks.rate --docs docs`" in (tmp_path / "docs/rate.md").read_text()


@pytest.mark.parametrize("method", ["d2s", "one", "bare"])
def test_what_is_compared_has_one_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def see(**options: object) -> None:
        raise RuntimeError(options["dtype"])

    monkeypatch.setattr(CaptionConfig, "of", see)
    with pytest.raises(RuntimeError, match="float32"):
        caption_methods.METHODS[method](tmp_path, 8)


def test_rates_are_those_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"texts": {"a.jpg": "A text."}, "seconds": 2.0}
    summary = caption_rate.summarise({"d2s": [result], "one": [{**result, "seconds": 4.0}]})
    assert summary["machine"] == name_machine()
    assert summary["methods"]["one"]["d2s_ratio"] == 2.0
    monkeypatch.setattr("sys.argv", ["caption_rate", "--methods", "one", "bare"])
    with pytest.raises(SystemExit) as caught:
        caption_rate.main()
    assert caught.value.code == 2 and "must include d2s" in capsys.readouterr().err


def test_a_short_run_has_no_figures_of_memory() -> None:
    found = {"rows": 1000, "rate": 10.0, "early_mib": None, "late_mib": 5.0}
    assert describe_memory(found) == ""
    assert "(+50.0 %)" in describe_memory({**found, "early_mib": 10.0, "late_mib": 15.0})


def test_a_document_names_its_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x/rate.py", "--rounds", "3", "--docs", "docs/benchmarks"])
    write_figures(tmp_path / "docs", "rate", title="Rate", text="| 1 |\n", figures={"rate": 1})
    command = "python -m benchmarks.rate --rounds 3 --docs docs/benchmarks"
    assert (
        tmp_path / "docs/rate.md"
    ).read_text() == f"# Rate\n\nWritten by `{command}`.\n\n| 1 |\n"
    assert json.loads((tmp_path / "docs/rate.json").read_text()) == {"rate": 1}


def test_ranks_that_are_killed_are_compared_with_a_run_that_is_not(tmp_path: Path) -> None:
    images, out, whole = (tmp_path / name for name in ("images", "out", "whole"))
    write_images(images, 400, side=8)
    assert start_run(images, whole, "--shard-size", "10").wait() == 0
    found = kill_ranks(images, out, "--shard-size", "10", ranks=2, kills=1, pause=0.02)
    assert found["kills"] == 1
    compare(out, whole)
    (out / "receipts.jsonl").write_text("")
    with pytest.raises(SystemExit, match="differs"):
        compare(out, whole)


def test_figures_of_another_machine_or_size_do_not_count(tmp_path: Path) -> None:
    about, path = {"machine": "NVIDIA H100", "torch": "2.13"}, tmp_path / "bf16.json"
    assert read_part(path, about) is None
    path.write_text(json.dumps({"about": about, "figures": {"ways": 1}}))
    assert read_part(path, about) == {"ways": 1}
    assert read_part(path, {**about, "machine": "NVIDIA H100, a trial at a small size"}) is None


def test_figures_of_other_code_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "vse").mkdir()
    source = tmp_path / "vse/__init__.py"
    source.write_text("a = 1")
    monkeypatch.setattr(vse, "__file__", str(source))
    given = argparse.Namespace(trial=True)
    before = describe_run(given)
    assert describe_run(given) == before
    source.write_text("a = 2")
    assert describe_run(given) != before


def test_a_part_that_fails_or_has_no_time_says_so() -> None:
    assert "code 2" in str(run_part("x", ["benchmarks.gpu", "--part", "none"], HANG_SECONDS))
    assert "no time" in str(run_part("x", ["benchmarks.gpu"], 0))
