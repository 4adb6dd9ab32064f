"""Weights: the shipped model, the Hub's cache, and whether the Hub is reachable."""

import json
from collections.abc import Mapping
from pathlib import Path

from captioner.llava.names import HUB_MODELS
from data.environment import SHIPPED_MODELS, ask_server, hide_credentials
from pipelines.doctor.check import Check
from vse.recipes.files import read_recipe, resolve

TIMEOUT = 5.0  # seconds to wait for the hub
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def check_hub() -> Check:
    """The source of weights, and whether a token is set (never its value)."""
    from huggingface_hub import constants, get_token

    endpoint = hide_credentials(constants.ENDPOINT)
    token = "a token is set" if get_token() else "no token is set"
    cache = f"cache {constants.HF_HUB_CACHE}"
    offline = constants.is_offline_mode()
    facts = {
        "cache": constants.HF_HUB_CACHE,
        "endpoint": endpoint,
        "offline": offline,
        "reachable": False,
        "token": get_token() is not None,
    }
    if offline:
        return Check("hub", "ok", f"not checked (HF_HUB_OFFLINE is set); {cache}", facts=facts)
    problem = ask_server(constants.ENDPOINT, timeout=TIMEOUT)
    if problem:
        detail = f"{endpoint} cannot be reached ({problem}); {cache}; {token}"
        remedy = "check the network, its proxy and HF_ENDPOINT, or fill the cache by other means"
        return Check("hub", "warn", detail, remedy, facts)
    facts["reachable"] = True
    return Check("hub", "ok", f"{endpoint} answers; {cache}; {token}", facts=facts)


def check_shipped_model(folder: Path = SHIPPED_MODELS["llava-scenes"]) -> Check:
    """`llava-scenes`, the captioner of the demo and the tests."""
    missing = [name for name in ("config.json", *_WEIGHTS[:1]) if not (folder / name).is_file()]
    if missing:
        detail = f"{' and '.join(missing)} not in {folder}: the demo cannot caption"
        return Check("llava-scenes", "fail", detail, "reinstall d2s-vse, which includes it")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    detail = f"{size / 1e6:.1f} MB in {folder}"
    return Check("llava-scenes", "ok", detail, facts={"folder": str(folder), "bytes": size})


def check_captioners(*, reachable: bool) -> Check:
    """The models with short names for `d2s caption --model`."""
    return check_weights("captioners", HUB_MODELS, reachable=reachable)


def check_towers(*, reachable: bool) -> Check:
    """The backbones that the paper's recipe starts from."""
    recipe = resolve(read_recipe("paper"), stage="1")
    names = [name for name in (recipe.image.name, recipe.text.name) if name is not None]
    return check_weights("towers", {name: name for name in names}, reachable=reachable)


def check_weights(name: str, repositories: Mapping[str, str], *, reachable: bool) -> Check:
    """Which repositories are available; `repositories`: name on the command line -> Hub id."""
    states = {short: read_cache(repository) for short, repository in repositories.items()}
    ready = [short for short, state in states.items() if state == "complete"]
    absent = {short: repositories[short] for short in states if short not in ready}
    facts = {"cached": states}
    parts = [f"in the cache: {', '.join(ready) or 'none'}"]
    if not absent:
        return Check(name, "ok", parts[0], facts=facts)
    if reachable:
        parts.append(f"downloaded when first used: {', '.join(absent)}")
        return Check(name, "ok", "; ".join(parts), facts=facts)
    parts.append(f"not available here: {', '.join(absent)}")
    remedy = (
        f"where there is a network: `hf download {next(iter(absent.values()))}` (or another), then "
        "copy the cache here; a local folder also works"
    )
    return Check(name, "warn", "; ".join(parts), remedy, facts)


def read_cache(repository: str) -> str:
    """'complete' if config and all weight files of a hub id are cached, 'partial', or 'absent'."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> str | None:
        found = try_to_load_from_cache(repository, file)
        return found if isinstance(found, str) else None

    config = cached("config.json")
    if config is not None and any(cached(file) for file in _WEIGHTS):
        return "complete"
    for index in map(cached, _INDEXES):
        if index is not None and config is not None:
            try:
                shards = set(json.loads(Path(index).read_text())["weight_map"].values())
            except (OSError, ValueError, KeyError):
                # An interrupted download, for example.
                return "partial"
            return "complete" if all(map(cached, shards)) else "partial"
    return "absent" if config is None else "partial"
