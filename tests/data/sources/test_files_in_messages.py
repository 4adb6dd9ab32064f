"""Messages of rows may be published: they name files, but not the folders of this machine."""

from pathlib import Path

import pytest

from data.images import ImageError
from tests.data.sources.listing import (
    list_images,
    make_dataset,
    read_all,
    write_table,
    write_tar,
)


@pytest.mark.parametrize("kind", ["cut.tar", "gone.tar", "torn.parquet", "gone.parquet"])
def test_no_folder_is_named(tmp_path: Path, photos: dict[str, bytes], kind: str) -> None:
    path = tmp_path / "private" / kind
    path.parent.mkdir()
    write = write_tar if path.suffix == ".tar" else write_table
    write(path, photos)
    source, listing = list_images(path)
    if path.stem == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ImageError, match=kind) as caught:
        read_all(source, listing.records)
    assert "private" not in str(caught.value)


def test_no_folder_of_a_data_set_is_named(tmp_path: Path, photos: dict[str, bytes]) -> None:
    path = tmp_path / "private" / "set"
    make_dataset(photos).save_to_disk(path)
    source, listing = list_images(f"hf:{path}")
    for part in path.glob("*.arrow"):
        part.write_bytes(b"torn")
    with pytest.raises(ImageError, match="data set set can") as caught:
        read_all(source, listing.records)
    assert "private" not in str(caught.value)
