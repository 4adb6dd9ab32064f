"""The command that brings what an extra needs."""

import shlex
from importlib.metadata import PackageNotFoundError

import pytest
from packaging.requirements import Requirement

from data import environment as extras
from tests.test_packaging import read_setup


@pytest.mark.parametrize("extra", ["ray", "faiss", "serve", "onnx", "vllm"])
def test_it_names_what_setup_names(extra: str) -> None:
    words = shlex.split(extras.name_install(extra))
    wanted = read_setup()["options.extras_require"][extra].strip().splitlines()
    assert words[:2] == ["pip", "install"]
    assert set(map(Requirement, words[2:])) == set(map(Requirement, wanted))


def test_where_nothing_is_installed_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", fail)
    assert "faiss" in extras.name_install("faiss")
