"""The clone of a stranger: into an empty folder, existing or not, and no other."""

from pathlib import Path

import pytest

from tools import stranger


def test_a_folder_may_exist_if_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[Path] = []
    monkeypatch.setattr(stranger, "take_through", lambda folder, _: taken.append(folder))
    monkeypatch.setattr("sys.argv", ["stranger", "--folder", str(tmp_path)])
    stranger.main()
    assert taken == [tmp_path.resolve()]
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(SystemExit) as caught:
        stranger.main()
    assert caught.value.code == 2 and "not empty" in capsys.readouterr().err
    assert len(taken) == 1
