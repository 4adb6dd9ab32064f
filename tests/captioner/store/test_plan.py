"""The plan's file: written whole, read back the same, also where an earlier version wrote it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.store.plan import Plan, read_plan, write_plan
from data.dense.run import PLAN_NAME
from data.errors import UserError
from data.sources.records import PLAN_SCHEMA
from tests.data.sources.test_records import make_records

# More than one row group.
COUNT = 70_000


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(make_records(COUNT), shard_size=999)


def test_what_is_written_is_read(tmp_path: Path, plan: Plan) -> None:
    write_plan(tmp_path, plan)
    read = read_plan(tmp_path, shard_size=999)
    assert list(read.records) == make_records(COUNT)
    assert read.hash() == plan.hash() and read.shards == plan.shards == 71
    assert list(read.select_shard(70)) == make_records(COUNT)[70 * 999 :]
    assert read.list_ids(3) == [record.sample_id for record in plan.select_shard(3)]
    table = pq.read_table(tmp_path / PLAN_NAME, partitioning=None)
    assert table.schema.equals(PLAN_SCHEMA)
    assert table["shard"].to_pylist() == [row // 999 for row in range(COUNT)]
    assert table["row"].to_pylist() == [row % 999 for row in range(COUNT)]
    # As plans were written before: all rows in one group, whatever their number.
    pq.write_table(table, tmp_path / PLAN_NAME, row_group_size=COUNT)
    assert list(read_plan(tmp_path, shard_size=999).records) == make_records(COUNT)


def test_plans_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--shard-size must be at least 1"):
        Plan(make_records(2), shard_size=0)
    with pytest.raises(ValueError, match="the same sample_id"):
        Plan([*make_records(2), *make_records(1)], shard_size=1)
    write_plan(tmp_path, Plan(make_records(2), shard_size=1))
    table = pq.read_table(tmp_path / PLAN_NAME, partitioning=None)
    for damaged in (pa.concat_tables([table, table]), table.drop_columns(["locator"])):
        pq.write_table(damaged, tmp_path / PLAN_NAME)
        with pytest.raises(UserError, match="the plan .* cannot be read"):
            read_plan(tmp_path, shard_size=1)
