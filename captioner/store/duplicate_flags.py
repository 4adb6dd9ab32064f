"""What can be said of a text only once all texts are there: whether it stands at many images."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captioner.store.store import RunStore
from captioner.text.duplicates import hash_images, hash_texts, mark_duplicates

FLAG = "duplicate"


def settle_shards(store: RunStore) -> bool:
    """Make flags and receipts of the shards that lie there, whoever wrote them; under the lock.

    False, and nothing is done, as long as one is missing or being rewritten.
    """
    if not store.find_finished():
        return False
    store.check_shards()
    flag_duplicates(store)
    store.finish()
    return True


def flag_duplicates(store: RunStore) -> int:
    """Set or take away the flag `duplicate` in all shards of a run whose shards are all written.

    A shard whose flags are right already is left as it is, so that doing it again, or after a kill,
    changes nothing. What a run has been given later changes no flag of what was there before: a
    text counts among those of its own part and of the parts before. Returns how many rows have the
    flag.

    Raises:
        UserError: the disk is full; every shard is as it was or as it should be.
    """
    if store.form.answer is not None:
        # The same choice at many images says nothing.
        return 0
    shards, start = sorted(store.receipts), 0
    texts, images = [], []
    for index in shards:
        # One shard at a time: a run's texts are more than a machine may hold.
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
    # Last: the flags that a text has by itself come first.
    return [*others, FLAG] if wanted else others
