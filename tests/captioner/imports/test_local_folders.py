"""Where a folder of texts is stays private: shards, which are published, have only its name."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.imports.run import ImportOptions, prepare_import, write_import


@pytest.mark.parametrize("prefix", ["", "hf:"])
@pytest.mark.parametrize("given", ["{here}/clients/acme", "clients/acme/"])
def test_the_place_of_a_folder_is_not_recorded(
    given: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "clients/acme"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    rows = pa.Table.from_pylist([{"file_name": "a.jpg", "caption": "A dog."}])
    pq.write_table(rows, folder / "train.parquet")
    file = prefix + given.format(here=tmp_path)
    out = tmp_path / "out"
    prepared = prepare_import(ImportOptions(file, model_name="m", out=out))
    run = write_import(prepared)
    assert run["settings"]["source"]["name"] == "acme"
    record = json.loads((out / "run.json").read_text())
    record["settings"]["source"]["name"] = str(folder)  # by an earlier version
    (out / "run.json").write_text(json.dumps(record))
    assert prepare_import(ImportOptions(file, model_name="m", out=out)).previous is not None
    [shard] = out.glob("train-*.parquet")
    metadata = pq.read_schema(shard).metadata[b"d2s.run"].decode()
    assert json.loads(metadata)["source"]["name"] == "acme" and "clients" not in metadata
