"""Several jobs with --retry-errors: each error is retried by one of them."""

from pathlib import Path

from captioner.run.writer import open_store
from captioner.settings.config import CaptionConfig
from captioner.settings.placement import Placement
from captioner.settings.prepare import PreparedRun, prepare_caption
from captioner.store.journal import Outcome
from captioner.store.store import RunStore
from tests.captioner.images import write_images
from tests.captioner.run.test_session import run_scripted


def prepare(folder: Path, rank: int) -> PreparedRun:
    return prepare_caption(
        CaptionConfig.of(
            model="any",
            engine="scripted",
            images=folder / "i",
            out=folder / "out",
            shard_size=5,
            retry_errors=True,
            placement=Placement(rank, 3),
        )
    )


def fail_again(store: RunStore, index: int) -> None:
    shard = store.open_shard(index, retry_errors=True)
    failed = {key: shard.outcomes[key] for key in shard.missing}
    for key, outcome in failed.items():
        shard.add(Outcome(key, outcome.status, error=outcome.error))
    store.commit(shard)


def test_what_another_job_has_just_retried_is_not_retried_again(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 10)
    for name in (names[2], names[7]):
        (tmp_path / "i" / name).write_bytes(b"")
    assert run_scripted(tmp_path / "i", tmp_path / "out", shard_size=5).errors == 2
    with open_store(prepare(tmp_path, 0)) as one, open_store(prepare(tmp_path, 1)) as other:
        for store in (one, other):
            store.check_shards()
            assert store.list_unfinished(retry_errors=True) == [0, 1]
        before = one.locate(0).read_bytes()
        assert one.claim(0, retry_errors=True) and not other.claim(0, retry_errors=True)
        fail_again(one, 0)
        # Nothing in the shard says so: the same errors are the same bytes.
        assert one.locate(0).read_bytes() == before
        assert not one.claim(0, retry_errors=True) and not other.claim(0, retry_errors=True)
        assert other.claim(1, retry_errors=True)
        # A session that begins now is another attempt.
        with open_store(prepare(tmp_path, 2)) as later:
            later.check_shards()
            assert later.claim(0, retry_errors=True)


def test_what_another_job_has_just_written_is_not_retried(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 5)
    (tmp_path / "i" / names[2]).write_bytes(b"")
    (tmp_path / "out").mkdir()
    with open_store(prepare(tmp_path, 0)) as store:
        store.check_shards()
        assert store.list_unfinished(retry_errors=True) == [0]
        run_scripted(tmp_path / "i", tmp_path / "out", shard_size=5)
        assert not store.claim(0, retry_errors=True)
