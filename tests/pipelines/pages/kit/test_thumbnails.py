"""Pictures: small, without metadata, from the image folder alone; those that cannot be had."""

import base64
import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captioner.run.session import caption
from data.sources import Source
from pipelines.pages.review.build import build_review
from tests.pipelines.captioned import (
    DENSE_TEXT,
    review,
    text_row,
    write_photo,
    write_run,
)
from tests.pipelines.pages.review.shown import Page


def test_pictures_are_small_jpegs_without_metadata(run: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (3000, 1500), "red").save(
        run.parents[1] / "photos/good.jpg", exif=exif, comment=b"who is on it"
    )
    assert review(run, "--flag", "ok", "--sort", "plan") == 0
    head, _, content = str(Page(run / "review.html").rows[0]["picture"]).partition(",")
    assert head == "data:image/jpeg;base64"
    raw = base64.b64decode(content)
    image = Image.open(io.BytesIO(raw))
    assert (image.format, image.size) == ("JPEG", (400, 200))
    assert b"where I live" not in raw and b"who is on it" not in raw


def test_names_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    write_photo(tmp_path / "secret.jpg")
    write_photo(tmp_path / "photos" / "a.jpg")
    names = ["../secret.jpg", str(tmp_path / "secret.jpg"), "b/../../secret.jpg", "a.jpg"]
    write_run(
        tmp_path / "run", [text_row(name, DENSE_TEXT) for name in names], images=tmp_path / "photos"
    )
    assert review(tmp_path / "run") == 0
    rows = Page(tmp_path / "run" / "review.html").rows
    assert [row.get("blank") for row in rows] == [
        *["no picture: its name leads out of the image folder"] * 3,
        None,
    ]


def write_locator(run: Path, locator: bytes) -> None:
    """Give the only image of the run this locator in its plan."""
    plan = pq.read_table(run / "plan.parquet")
    place = plan.schema.get_field_index("locator")
    plan = plan.set_column(place, plan.schema.field(place), pa.array([locator]))
    pq.write_table(plan, run / "plan.parquet")


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    raw, run = b"caf\xe9.jpg", tmp_path / "run"
    write_photo(tmp_path / "photos" / os.fsdecode(raw))
    write_run(run, [text_row("caf\\xe9.jpg", DENSE_TEXT)], images=tmp_path / "photos")
    for locator, shown in ((b"path:" + raw, True), (raw, False)):
        write_locator(run, locator)
        assert review(run) == 0
        assert ("picture" in Page(run / "review.html").rows[0]) == shown


def test_pictures_in_a_tar_file(tmp_path: Path) -> None:
    write_photo(tmp_path / "1.jpg")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "1.jpg", "a/1.jpg")
    run = tmp_path / "run"
    caption(model="any", engine="scripted", images=tmp_path / "x.tar", out=run)
    assert review(run) == 0
    assert "picture" in Page(run / "review.html").rows[0]


def test_a_run_that_came_without_its_plan(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "a.jpg")
    write_run(tmp_path / "run", [text_row("a.jpg", DENSE_TEXT)], images=tmp_path / "photos")
    (tmp_path / "run" / "plan.parquet").unlink()
    assert review(tmp_path / "run") == 0
    assert "picture" in Page(tmp_path / "run" / "review.html").rows[0]


def test_pictures_that_cannot_be_had(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = run.parents[1] / "photos"
    (photos / "good.jpg").write_bytes(b"no image")
    os.mkfifo(photos / "gone.jpg")
    assert review(run) == 0
    blanks = {row["name"]: row.get("blank") for row in Page(run / "review.html").rows}
    assert blanks["good.jpg"] == "no picture: not an image in a known format: plain text"
    assert blanks["gone.jpg"] == "no picture: not a regular file"
    capsys.readouterr()
    photos.rename(photos.with_name("moved"))
    assert review(run) == 0
    assert "so there are no thumbnails" in capsys.readouterr().err
    assert "so there are no thumbnails" in Page(run / "review.html").said
    assert review(run, "--images", "moved") == 0
    assert Page(run / "review.html").tags.count("img") == 2


def test_pictures_stop_where_the_page_grows_too_large(run: Path) -> None:
    def count(most: int) -> int:
        return build_review(
            run,
            images=Source("folder", str(run.parents[1] / "photos")),
            flag=None,
            sort="plan",
            limit=9,
            picture_bytes=most,
        ).pictures

    assert count(10**6) == 3 and count(0) == 0
    first = build_review(
        run,
        images=Source("folder", str(run.parents[1] / "photos")),
        flag=None,
        sort="plan",
        limit=1,
    ).entries[0]
    assert first.picture is not None
    assert count(len(first.picture.content)) == 1
    assert count(len(first.picture.content) - 1) == 0
