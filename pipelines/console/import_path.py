"""Checks that the four packages of d2s come from one place. Imports only the standard library.

Their names are ordinary (`data`, `pipelines`), so with `python -m` or a PYTHONPATH, a folder of the
same name can shadow them. This is checked before any of them is imported.
"""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("captioner", "data", "pipelines", "vse")
HOME = Path(__file__).resolve().parents[2]


def find_shadowing() -> dict[str, str]:
    """Package -> where Python would find it, for packages of d2s that are not next to this one."""
    found = {name: _locate(name) for name in PACKAGES}
    return {name: place for name, place in found.items() if place != str(HOME / name)}


def explain_shadowing(shadowing: dict[str, str]) -> str:
    """One line for the user: what is shadowed, by what, and what to do."""
    listed = ", ".join(f"'{name}' from {place}" for name, place in sorted(shadowing.items()))
    return (
        f"other packages shadow those of d2s in {HOME}: Python would import {listed}. Run the "
        "`d2s` command instead of `python -m`, from a folder without such a package and with "
        "PYTHONPATH unset"
    )


def _locate(name: str) -> str:
    """The folder `name` would be imported from, links resolved, or 'nowhere'."""
    spec = find_spec(name)
    if spec is None:
        return "nowhere"
    if spec.origin is not None:
        file = Path(spec.origin).resolve()
        return str(file.parent if file.name == "__init__.py" else file)
    places = list(spec.submodule_search_locations or [])
    return str(Path(places[0]).resolve()) if places else "nowhere"
