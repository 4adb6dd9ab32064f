"""Versions stay with the rows that they made; a run mixes them only if asked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from captioner.engine.protocol import Generation
from captioner.engine.scripted import ScriptedEngine
from captioner.exports.run import ExportOptions, prepare_export, write_export
from captioner.run.session import CaptionResult
from captioner.store.repair import repair_run
from captioner.store.verification import verify_run
from data.dense.run import read_run
from data.errors import UserError
from tests.captioner.images import write_images
from tests.captioner.run.test_session import run_with, shard_bytes

SAME = "A red square stands beside a blue circle on a wide and empty floor of grey stone."


class _SameText(ScriptedEngine):
    """Every image gets the same text, so that all are flagged at the end."""

    def collect(self) -> list[Generation]:
        return [replace(generation, text=SAME) for generation in super().collect()]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Go on with this version of Pillow."""

    def change(version: str) -> None:
        monkeypatch.setattr(
            "captioner.store.run_record.list_versions", lambda _: {"pillow": version}
        )

    return change


def run(folder: Path, *, most: int = 10**9, **options: Any) -> CaptionResult:
    """A run that is stopped once `most` texts are there."""
    engine = _SameText(window=1)
    asked: list[int] = []
    submit = engine.submit

    def count(request: Any) -> None:
        asked.append(1)
        submit(request)

    engine.submit = count  # type: ignore[method-assign]
    return run_with(engine, folder / "i", folder / "out", lambda: len(asked) >= most, **options)


def read_metadata(folder: Path, shard: int) -> dict[str, Any]:
    path = next((folder / "out").glob(f"train-{shard:05d}-*"))
    about: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"d2s.run"])
    return about


def count_made(folder: Path) -> dict[str, int]:
    makers = read_run(folder / "out")["made_by"].values()
    return {maker["versions"]["pillow"]: maker["rows"] for maker in makers}


def test_flags_do_not_change_who_made_the_rows(tmp_path: Path, use: Callable[[str], None]) -> None:
    write_images(tmp_path / "i", 30)
    use("1")
    assert run(tmp_path, most=15).interrupted
    use("2")
    with pytest.raises(UserError, match="pillow: 1 -> 2.*--mix-versions"):
        run(tmp_path)
    assert read_run(tmp_path / "out")["versions"]["pillow"] == "1"
    assert run(tmp_path, mix_versions=True).flags == {"duplicate": 30}
    assert read_metadata(tmp_path, 0)["versions"]["pillow"] == "1"
    assert read_metadata(tmp_path, 2)["versions"]["pillow"] == "2"
    first, second = read_metadata(tmp_path, 1)["made_by"]
    assert sorted(first["rows"] + second["rows"]) == list(range(10))
    assert sum(count_made(tmp_path).values()) == 30 and count_made(tmp_path)["1"] >= 14
    assert verify_run(tmp_path / "out").ok
    # An exported file has rows of both.
    options = ExportOptions(format="parquet", out=tmp_path / "x", shard_size=15)
    for path in write_export(prepare_export(tmp_path / "out", options)).out.iterdir():
        about = json.loads(pq.read_schema(path).metadata[b"d2s.run"])
        assert about["model"] == "any" and not {"versions", "made_by"} & about.keys()
    # Nothing is made any more: other versions neither matter nor are written down.
    use("3")
    before = shard_bytes(tmp_path / "out")
    assert run(tmp_path).complete and shard_bytes(tmp_path / "out") == before
    assert "3" not in count_made(tmp_path)


def test_a_row_that_is_retried_is_alone_of_today(
    tmp_path: Path, use: Callable[[str], None]
) -> None:
    names = write_images(tmp_path / "i", 20)
    good = (tmp_path / "i" / names[13]).read_bytes()
    (tmp_path / "i" / names[13]).write_bytes(b"torn")
    use("1")
    assert run(tmp_path).errors == 1
    (tmp_path / "i" / names[13]).write_bytes(good)
    use("2")
    with pytest.raises(UserError, match="other versions"):
        run(tmp_path, retry_errors=True)
    assert verify_run(tmp_path / "out").rows == 20
    assert run(tmp_path, retry_errors=True, mix_versions=True).ok == 20
    made = {maker["versions"]["pillow"]: maker for maker in read_metadata(tmp_path, 1)["made_by"]}
    assert made["2"]["rows"] == [3] and len(made["1"]["rows"]) == 9
    assert read_metadata(tmp_path, 0)["versions"]["pillow"] == "1"
    assert count_made(tmp_path) == {"1": 19, "2": 1}
    # Flags and another retry keep it.
    assert run(tmp_path, retry_errors=True, mix_versions=True).complete
    assert count_made(tmp_path) == {"1": 19, "2": 1}


def test_a_run_that_has_made_nothing_goes_on_with_other_versions(
    tmp_path: Path, use: Callable[[str], None]
) -> None:
    write_images(tmp_path / "i", 5)
    use("1")
    run(tmp_path, most=0)
    use("2")
    assert run(tmp_path).complete and {"2": 5}.items() <= count_made(tmp_path).items()


def test_versions_that_were_lost_with_the_record_stay_unknown(
    tmp_path: Path, use: Callable[[str], None]
) -> None:
    """Journals only name them; the run is finished all the same."""
    write_images(tmp_path / "i", 10)
    use("1")
    assert run(tmp_path, most=5).interrupted
    (tmp_path / "out" / "run.json").unlink()
    repair_run(tmp_path / "out")
    use("2")
    assert run(tmp_path, mix_versions=True).complete and verify_run(tmp_path / "out").ok
    made = {
        maker["versions"].get("pillow"): maker for maker in read_metadata(tmp_path, 0)["made_by"]
    }
    assert made.keys() == {None, "2"} and len(made[None]["rows"]) >= 4
    makers = read_run(tmp_path / "out")["made_by"].values()
    assert sum(maker["rows"] for maker in makers) == 10
