"""Small wheels that behave as torch and its like do where the wrong build meets the machine."""

import hashlib
import zipfile
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

# torch for CUDA does not load without its libraries; the CPU build needs none.
_TORCH_CUDA = """
try:
    import nvidia_cudnn
except ImportError:
    raise ImportError("libcudnn.so.9: cannot open shared object file")
CPU = False
"""
_LIBRARY = """
DEFINED = []
class Library:
    def __init__(self, *names): pass
    def define(self, schema): DEFINED.append(schema)
"""
# torchvision's operators are there beside a torch of its own build; else somebody declares them.
_VISION = """
import torch.library
from torchvision import extension
if not extension._has_ops() and not torch.library.DEFINED:
    raise RuntimeError("operator torchvision::nms does not exist")
"""
_EXTENSION = "import torch\ndef _has_ops(): return torch.CPU is {cpu}\n"


def write_wheel(folder: Path, name: str, version: str, files: Mapping[str, str | bytes]) -> Path:
    """A pure wheel with some files."""
    stem = name.replace("-", "_")
    about = f"{stem}-{version}.dist-info"
    whole = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,{len(text)}\n" for path, text in whole.items())
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in whole.items():
            archive.writestr(inside, text)
        archive.writestr(f"{about}/RECORD", f"{record}{about}/RECORD,,\n")
    return path


def write_torch(folder: Path, *, cpu: bool) -> None:
    """torch and torchvision, of the CPU's build or of CUDA's, versions as we lock them."""
    local = "+cpu" if cpu else ""
    torch = {"torch/__init__.py": "CPU = True\n" if cpu else _TORCH_CUDA}
    write_wheel(folder, "torch", f"2.13.0{local}", {**torch, "torch/library.py": _LIBRARY})
    vision = {"torchvision/__init__.py": _VISION}
    vision["torchvision/extension.py"] = _EXTENSION.format(cpu=cpu)
    write_wheel(folder, "torchvision", f"0.28.0{local}", vision)


def repack(folder: Path, name: str) -> Path:
    """The wheel of a pure package that is installed here."""
    found = distribution(name)
    inside = [file for file in found.files or [] if ".." not in file.parts]
    files = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in inside
        if "__pycache__" not in file.parts
        and (not file.parts[0].endswith(".dist-info") or file.name == "entry_points.txt")
    }
    return write_wheel(folder, name, found.version, files)


def pin(wheel: Path) -> str:
    """A line of a lock file."""
    name, version = wheel.name.split("-")[:2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    sign = "===" if name.startswith("torch") else "=="
    return f"{name.replace('_', '-')}{sign}{version} \\\n    --hash=sha256:{digest}\n"
