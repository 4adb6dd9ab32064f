"""Let a torchvision whose C++ library does not load be imported beside a CPU build of torch.

PyPI carries torchvision as a CUDA build. Beside CPU torch its library cannot load, so the operators
`torchvision::nms` and `torchvision::qnms` are never declared, and `import torchvision` stops where
it registers their shape functions. Declaring the two schemas is all the import needs: transforms,
open_clip and timm work afterwards. The C++ operators themselves, and `torchvision.io`, stay out of
reach and say so when called.

It is installed with a `.pth` line, not called by d2s, because vLLM inspects model classes in
processes of its own. Where torchvision's library loads, nothing is changed.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

TARGET = "torchvision.extension"  # the module that loads the C++ library and knows if it did
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # a torch Library takes its declarations back when it is collected


def declare_missing_schemas(extension: ModuleType) -> bool:
    """Declare the schemas unless `extension` (torchvision.extension) loaded the library itself."""
    if extension._has_ops():
        return False
    from torch.library import Library

    library = Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    _libraries.append(library)
    return True


class DeclaringLoader(SourceFileLoader):
    """The usual loader of one module, followed by the declarations."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        declare_missing_schemas(module)


class ExtensionFinder:
    """Finds `torchvision.extension` as usual and gives it the loader above."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != TARGET:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = DeclaringLoader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Put the finder first; called once per interpreter by the `.pth` line."""
    if ExtensionFinder not in sys.meta_path:
        sys.meta_path.insert(0, ExtensionFinder)
