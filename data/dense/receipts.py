"""Receipts: one JSON line per finished shard, to verify that nothing has changed."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from data.files.atomic import explain_full_disk, replace_whole

RECEIPTS_NAME = "receipts.jsonl"


@dataclass(frozen=True)
class Receipt:
    """A finished shard: its name, hash and row counts."""

    shard: str
    index: int
    rows: int
    errors: int
    bytes: int
    sha256: str


def read_receipts(directory: Path) -> dict[int, Receipt]:
    """The newest receipt of each shard, by shard index. A truncated last line is ignored."""
    path = directory / RECEIPTS_NAME
    if not path.is_file():
        return {}
    receipts: dict[int, Receipt] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            receipt = Receipt(**json.loads(line))
        except (ValueError, TypeError):
            # Empty, or truncated by a crash: the receipt is rebuilt from the shard.
            continue
        receipts[receipt.index] = receipt
    return receipts


def append_receipt(directory: Path, receipt: Receipt) -> None:
    """Add one line and sync it.

    Raises:
        UserError: the disk is full.
    """
    path = directory / RECEIPTS_NAME
    with explain_full_disk(path), path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            # A truncated line must not swallow this one.
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(_line(receipt))
        file.flush()
        os.fsync(file.fileno())


def rewrite_receipts(directory: Path, receipts: Iterable[Receipt]) -> None:
    """Replace the file with exactly these receipts, in shard order."""
    ordered = sorted(receipts, key=lambda receipt: receipt.index)
    content = b"".join(_line(receipt) for receipt in ordered)
    path = directory / RECEIPTS_NAME
    if path.is_file() and path.read_bytes() == content:
        return
    with replace_whole(path) as temporary:
        temporary.write_bytes(content)


def _line(receipt: Receipt) -> bytes:
    return json.dumps(asdict(receipt)).encode() + b"\n"
