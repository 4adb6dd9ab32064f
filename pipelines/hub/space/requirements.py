"""The requirements of a Space: the versions installed here, so that the page is the same.

d2s itself is not included: a Space contains it as a wheel.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from data.environment import DISTRIBUTION, name_install
from data.errors import UserError

# Most Spaces have no GPU; the plain index has torch for CUDA, which is several times as large.
_CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"


def write_requirements(extras: Iterable[str]) -> str:
    """The text of requirements.txt. Gradio itself is named by the README's `sdk_version`.

    Args:
        extras: of setup.cfg.

    Raises:
        UserError: a package is not installed.
    """
    read_gradio_version()
    gradio = _read_requirements("gradio")
    lines = [_CPU_TORCH]
    wanted: dict[str, Requirement] = {}
    for extra in extras:
        wanted |= _read_requirements(DISTRIBUTION, extra=extra)
    for name, requirement in sorted(wanted.items()):
        if name == "gradio":
            continue
        # Its index may call it 2.13.0+cpu, another one 2.13.0.
        installed = _read_version(name).partition("+")[0]
        other = gradio.get(name)
        if other is None or other.specifier.contains(installed):
            lines.append(f"{name}=={installed}")
        else:
            lines.append(f"{name}{requirement.specifier & other.specifier}")
    return "\n".join(lines) + "\n"


def read_gradio_version() -> str:
    """For `sdk_version`.

    Raises:
        UserError: it is not installed, so the page was never tried.
    """
    return _read_version("gradio")


def _read_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        extra = "lora" if package == "peft" else "serve"
        raise UserError(
            f"a Space needs the package {package}, which is missing: {name_install(extra)}"
        ) from error


def _read_requirements(package: str, *, extra: str = "") -> dict[str, Requirement]:
    """The requirements of a package, by canonical name."""
    found = [Requirement(line) for line in requires(package) or []]
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in found
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    }
