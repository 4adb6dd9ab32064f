"""Makers: the package versions that generated a row, recorded with the rows.

A journal names a maker by a short hash, run.json maps hashes to versions, and a finished shard is
self-contained: it has `versions` in its metadata, or `made_by` if its rows have several makers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

Versions = Mapping[str, str]
_KEY = "d2s.run"


def name_maker(versions: Versions) -> str:
    """An eight-character name for these versions."""
    return hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:8]


def list_recorded(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The makers in run.json, by name, with their `versions`; older files had only one."""
    if "made_by" in run or not run.get("versions"):
        return dict(run.get("made_by", {}))
    return {name_maker(run["versions"]): {"versions": run["versions"]}}


def state_makers(
    metadata: Mapping[str, str], names: Sequence[str], known: Mapping[str, Versions]
) -> dict[str, str]:
    """The metadata of a shard whose rows have the makers `names`, in row order.

    The versions of one that is not `known` are empty: run.json was lost.
    """
    about, rows = json.loads(metadata[_KEY]), dict[str, list[int]]()
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    if len(rows) == 1:
        about["versions"] = known.get(names[0], {})
    else:
        del about["versions"]
        about["made_by"] = [{"versions": known.get(n, {}), "rows": rows[n]} for n in sorted(rows)]
    return {**metadata, _KEY: json.dumps(about, sort_keys=True, ensure_ascii=False)}


def share_makers(shards: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The metadata of a file with rows of any of these shards, given by their metadata.

    It only has `versions` if they are those of all rows: `made_by` counts the rows of one shard.
    """
    if _KEY not in shards[0]:
        return dict(shards[0])
    first, *others = (json.loads(metadata.get(_KEY, "{}")) for metadata in shards)
    if any(about.get("versions") != first.get("versions") for about in others):
        first.pop("versions", None)
    first.pop("made_by", None)
    return {**shards[0], _KEY: json.dumps(first, sort_keys=True, ensure_ascii=False)}


def read_makers(
    metadata: Mapping[bytes, bytes] | None, count: int
) -> list[tuple[Versions, Sequence[int]]]:
    """The makers of a shard of `count` rows, each with its row numbers."""
    about = json.loads((metadata or {}).get(_KEY.encode(), b"{}"))
    if "made_by" not in about:
        return [(about.get("versions", {}), range(count))]
    return [(maker["versions"], maker["rows"]) for maker in about["made_by"]]
