"""Images by their address."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.run.session import caption
from data.dense.shards import read_rows
from data.errors import UserError
from data.images import ImageError
from data.sources import Source, download
from data.sources.columns import Columns
from data.sources.download import fetch_url, is_public
from data.sources.opening import SourceOptions
from data.sources.reader import ImageReader
from tests.data.sources.listing import list_images, read_all, write_table
from tests.data.sources.photo_server import Photos, serve_photos


@pytest.fixture
def server(photos: dict[str, bytes]) -> Iterator[str]:
    with serve_photos(list(photos.values())) as address:
        yield address


def test_addresses(tmp_path: Path, photos: dict[str, bytes], server: str) -> None:
    path = tmp_path / "urls.txt"
    path.write_text(f"{server}/ok/0\n{server}/busy/1\n{server}/gone/2\n{server}/ok/3\n")
    source, listing = list_images(path)
    assert [record.image_url for record in listing.records] == path.read_text().split()
    found = read_all(source, listing.records[:2] + listing.records[3:])
    assert found == [list(photos.values())[number] for number in (0, 1, 3)]
    with pytest.raises(ImageError, match="cannot be fetched: HTTP 404"):
        read_all(source, listing.records[2:3])
    assert Photos.seen.count("/gone/2") == 1


def test_a_whole_run_from_addresses(tmp_path: Path, photos: dict[str, bytes], server: str) -> None:
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{server}/ok/{number}\n" for number in range(6)) + f"{server}/gone/9")
    result = caption(model="any", engine="scripted", images=path, out=tmp_path / "out")
    assert result.statuses == {"decode_error": 1, "ok": 6}
    rows = read_rows(tmp_path / "out").to_pylist()
    assert rows[6]["error"] == "cannot be fetched: HTTP 404 Not Found"
    assert rows[0]["image_url"] == f"{server}/ok/0"


def test_a_byte_that_is_not_utf8_is_asked_for_as_it_is(tmp_path: Path, server: str) -> None:
    path = tmp_path / "urls.txt"
    path.write_bytes(f"{server}/caf\xe9/ok/0\n{server}/\xe9/gone/1\n".encode("latin-1"))
    result = caption(model="any", engine="scripted", images=path, out=tmp_path / "out")
    assert result.statuses == {"decode_error": 1, "ok": 1}
    assert "/caf%E9/ok/0" in Photos.seen
    source, listing = list_images(path)
    assert read_all(source, listing.records[:1]) == Photos.photos[:1]


@pytest.mark.parametrize("trickles", [False, True])
def test_a_server_that_never_ends(trickles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent, or a byte of its head at a time: neither is waited for long, nor asked often."""
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(download, "_MOST_SECONDS", 2.0)
    asked = []

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                asked.append(connection)
                if trickles:
                    threading.Thread(target=trickle, args=(connection,), daemon=True).start()

    def trickle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                connection.sendall(b"x")
                time.sleep(0.01)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x.jpg"
        with pytest.raises(ImageError, match="cannot be fetched: .*(timed out|more than 2 s)"):
            fetch_url(address, named=True)
        assert len(asked) == 2
    for connection in asked:
        connection.close()


def test_other_schemes_are_never_fetched() -> None:
    with pytest.raises(ImageError, match="only http and https"):
        ImageReader(Source("urls")).read(b"url:file:///etc/passwd")


def test_nobody_leads_into_a_private_network_but_the_user(server: str) -> None:
    elsewhere = server.replace("127.0.0.1", "localhost")
    assert fetch_url(f"{server}/ok/0", named=True) == Photos.photos[0]
    assert fetch_url(f"{server}/to/{quote(server + '/ok/1', safe='')}", named=True)
    seen = len(Photos.seen)
    for address in (
        f"{server}/ok/0",
        f"{elsewhere}/ok/0",
        f"{server.replace('127', '%3127')}/ok/0",
    ):
        with pytest.raises(ImageError, match=r"private network \(127.0.0.1\)"):
            fetch_url(address, named=False)
    assert len(Photos.seen) == seen, "nothing was asked of it"
    with pytest.raises(ImageError, match="private network"):
        fetch_url(f"{server}/to/{quote(elsewhere + '/ok/0', safe='')}", named=True)
    for target in ("ftp://127.0.0.1/x", "file:///etc/passwd"):
        with pytest.raises(ImageError, match="only http and https|HTTP 302"):
            fetch_url(f"{server}/to/{quote(target, safe='')}", named=True)


def test_which_networks_are_private() -> None:
    private = "127.0.0.1 10.1.2.3 192.168.0.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1"
    for address in [*private.split(), "::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "::"]:
        assert not is_public(address), address
    for address in ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8"):
        assert is_public(address), address


def test_through_a_proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in a private network itself, and alone knows the names of the others."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server)
    assert fetch_url("http://photos.invalid/ok/0", named=False) == Photos.photos[0]
    assert Photos.seen[-1] == "http://photos.invalid/ok/0"
    with pytest.raises(ImageError, match="private network"):
        fetch_url("http://169.254.169.254/ok/0", named=False)


def test_cells_are_fetched_only_if_their_column_was_named(
    tmp_path: Path, photos: dict[str, bytes], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [f"{server}/ok/{number}" for number in range(6)]
    pq.write_table(pa.table({"image": addresses}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="contains URLs: use --image-column image") as caught:
        list_images(tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)
    asked = SourceOptions(columns=Columns(image="image"))
    source, listing = list_images(tmp_path / "a.parquet", asked)
    with pytest.raises(ImageError, match="private network"):
        read_all(source, listing.records[:1])
    # As if it were out on the internet, which no test can allowed.
    monkeypatch.setattr(download, "is_public", lambda _: True)
    assert read_all(source, listing.records) == list(photos.values())
    pq.write_table(
        pa.table({"image": [{"bytes": None, "path": addresses[0]}]}), tmp_path / "b.parquet"
    )
    source, listing = list_images(tmp_path / "b.parquet")
    with pytest.raises(ImageError, match="specify its column with --image-column"):
        read_all(source, listing.records)
    # Nor does the name of a file become an address.
    write_table(tmp_path / "c.parquet", {addresses[0]: next(iter(photos.values()))})
    source, listing = list_images(tmp_path / "c.parquet")
    assert read_all(source, listing.records) == list(photos.values())[:1]


def test_half_of_a_surrogate_pair_is_no_address() -> None:
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch_url("http://host/\ud800.jpg", named=False)


@pytest.mark.parametrize("url", ["http://[bad/x.jpg", "https://[::1/x.jpg"])
def test_an_address_that_is_none_is_one_images_error(url: str, tmp_path: Path) -> None:
    for named in (True, False):
        with pytest.raises(ImageError, match="cannot be fetched"):
            fetch_url(url, named=named)
    (tmp_path / "list.txt").write_text(f"HTTPS://host/a.jpg\n{url}\n")
    _, listing = list_images(tmp_path / "list.txt")
    assert [record.file_name for record in listing.records] == ["HTTPS://host/a.jpg", url]
