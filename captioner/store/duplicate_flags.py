"""The flag `duplicate`, which can only be set when all texts exist."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captioner.store.store import RunStore
from captioner.text.duplicates import hash_images, hash_texts, mark_duplicates

FLAG = "duplicate"


def settle_shards(store: RunStore) -> bool:
    """Update flags and receipts of the existing shards, whoever wrote them; under the lock.

    Does nothing and returns False while a shard is missing or being rewritten.
    """
    if not store.find_finished():
        return False
    store.check_shards()
    flag_duplicates(store)
    store.finish()
    return True


def flag_duplicates(store: RunStore) -> int:
    """Set or remove the flag `duplicate` in all shards of a run, once all shards are written.

    Shards with correct flags are not touched, so repeating this, also after a kill, changes
    nothing. Additions do not change the flags of earlier rows: a text is compared with its own part
    and earlier ones. Returns how many rows have the flag.

    Raises:
        UserError: the disk is full; each shard is either unchanged or final.
    """
    if store.form.answer is not None:
        # The same choice for many images is normal.
        return 0
    shards, start = sorted(store.receipts), 0
    texts, images = [], []
    for index in shards:
        # One shard at a time: the texts of a run may not fit into memory.
        columns = ["caption", "image_sha256"]
        table = pq.read_table(store.locate(index), columns=columns, partitioning=None)
        texts.append(hash_texts(table.column("caption")))
        images.append(hash_images(table.column("image_sha256"), start=start))
        start += table.num_rows
    all_texts, all_images = np.concatenate(texts), np.concatenate(images)
    marked = np.concatenate(
        [
            mark_duplicates(all_texts[:stop], all_images[:stop])[start:]
            for start, stop in pairwise(bound * store.form.samples for bound in store.plan.bounds)
        ]
    )
    bounds = np.cumsum([len(part) for part in texts])[:-1]
    for index, part in zip(shards, np.split(marked, bounds), strict=True):
        _mark(store, index, part.tolist())
    return int(marked.sum())


def _mark(store: RunStore, index: int, marked: list[bool]) -> None:
    path = store.locate(index)
    before = pq.read_table(path, columns=["flags"], partitioning=None).column("flags").to_pylist()
    after = [_set(flags, wanted) for flags, wanted in zip(before, marked, strict=True)]
    if after != before:
        table = pq.read_table(path, partitioning=None)
        position = table.schema.get_field_index("flags")
        field = table.schema.field(position)
        store.rewrite(index, table.set_column(position, field, pa.array(after, field.type)))


def _set(flags: list[str] | None, wanted: bool) -> list[str] | None:
    if flags is None:
        return None
    others = [flag for flag in flags if flag != FLAG]
    # Last: flags of the text itself come first.
    return [*others, FLAG] if wanted else others
