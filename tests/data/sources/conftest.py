"""Six images that every kind of source is made of."""

from pathlib import Path

import pytest

from tests.captioner.images import write_images


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, bytes]:
    """Six images in tmp_path/photos and its folder `b`."""
    folder = tmp_path / "photos"
    names = write_images(folder, 4) + write_images(folder, 2, prefix="b/")
    return {name: (folder / name).read_bytes() for name in names}
