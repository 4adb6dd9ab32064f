"""The default output folder."""

from pathlib import Path

import pytest

from captioner.settings.images import name_out


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("photos", "photos"),
        ("photos/", "photos"),
        (".", "here"),
        ("photos/..", "here"),
        # As it was typed, not what it leads to.
        ("link", "link"),
        ("list.of.txt", "list"),
        ("link.txt", "link"),
        ("hf:someone/birds", "birds"),
        ("shards/*.tar", "images"),
    ],
)
def test_it_has_the_name_of_the_images(
    given: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "photos").mkdir(parents=True)
    (here / "list.of.txt").touch()
    (here / "link").symlink_to("photos")
    (here / "link.txt").symlink_to("list.of.txt")
    monkeypatch.chdir(here)
    assert name_out(given) == Path("dense", name)
