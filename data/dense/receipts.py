"""Receipts: one JSON line per finished shard, by which anyone can check that nothing changed."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from data.files.atomic import explain_full_disk, replace_whole

RECEIPTS_NAME = "receipts.jsonl"


@dataclass(frozen=True)
class Receipt:
    """What a finished shard is: its name, its bytes, its rows."""

    shard: str
    index: int
    rows: int
    errors: int
    bytes: int
    sha256: str


def read_receipts(directory: Path) -> dict[int, Receipt]:
    """The newest receipt of each shard, by shard index. A torn last line is not a receipt."""
    path = directory / RECEIPTS_NAME
    if not path.is_file():
        return {}
    receipts: dict[int, Receipt] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            receipt = Receipt(**json.loads(line))
        except (ValueError, TypeError):
            # Empty, or torn by a crash: that shard's receipt is made anew from the shard.
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
            # A torn line must not swallow this one.
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(_line(receipt))
        file.flush()
        os.fsync(file.fileno())


def rewrite_receipts(directory: Path, receipts: Iterable[Receipt]) -> None:
    """Replace the file by exactly these receipts, in shard order."""
    ordered = sorted(receipts, key=lambda receipt: receipt.index)
    content = b"".join(_line(receipt) for receipt in ordered)
    path = directory / RECEIPTS_NAME
    if path.is_file() and path.read_bytes() == content:
        return
    with replace_whole(path) as temporary:
        temporary.write_bytes(content)


def _line(receipt: Receipt) -> bytes:
    return json.dumps(asdict(receipt)).encode() + b"\n"
