"""The wheel in a Space: d2s as installed here, so that no release on an index is needed."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

from data.environment import DISTRIBUTION
from pipelines.console.import_path import HOME, PACKAGES

# Package data besides modules, as in package_data in setup.cfg.
_ENDINGS = {".css", ".html", ".jinja", ".js", ".py", ".typed", ".yaml"}
_MODELS = HOME / "captioner/models"
_ABOUT = ("METADATA", "entry_points.txt", "top_level.txt")
_WHEEL = "Wheel-Version: 1.0\nGenerator: d2s\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# The earliest time in zip files, so that the same files always give the same wheel.
_DATE = (1980, 1, 1, 0, 0, 0)


def name_wheel() -> str:
    """Its file name."""
    found = distribution(DISTRIBUTION)
    return f"{DISTRIBUTION.replace('-', '_')}-{found.version}-py3-none-any.whl"


def pack_wheel() -> bytes:
    """Build a wheel of the packages that run here, installed or from a clone."""
    found = distribution(DISTRIBUTION)
    about = f"{DISTRIBUTION.replace('-', '_')}-{found.version}.dist-info"
    files = {str(path.relative_to(HOME)): path.read_bytes() for path in list_files()}
    files |= {f"{about}/{name}": (found.read_text(name) or "").encode() for name in _ABOUT}
    files[f"{about}/WHEEL"] = _WHEEL.encode()
    files[f"{about}/RECORD"] = _write_record(files, f"{about}/RECORD")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return whole.getvalue()


def list_files() -> Iterator[Path]:
    """The files of d2s's packages, in order, without unrelated files in a clone."""
    for package in PACKAGES:
        for path in sorted((HOME / package).rglob("*")):
            inside = path.parent == _MODELS or _MODELS in path.parents
            near = (path.parent, *([] if path.suffix == ".py" else [path.parent.parent]))
            of_package = any((folder / "__init__.py").is_file() for folder in near)
            known = path.suffix in _ENDINGS and of_package
            if path.is_file() and "__pycache__" not in path.parts and (inside or known):
                yield path


def _write_record(files: dict[str, bytes], own: str) -> bytes:
    """RECORD: name, hash and size of each file, in the wheel format (PEP 376, PEP 427)."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow((str(PurePosixPath(name)), f"sha256={digest}", len(content)))
    rows.writerow((own, "", ""))
    return text.getvalue().encode()
