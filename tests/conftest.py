"""For every test: one thread, no network, no cache but its own. Set before any import."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_HOME = tempfile.mkdtemp(prefix="d2s-tests-")

os.environ.update(
    {
        # Two cores are shared by everything; more threads than cores make torch and vLLM erratic.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Weights in the cache of whoever runs the tests must not decide their outcome.
        "HF_HOME": _HOME,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # Not a cluster that happens to run here, nor one that was killed; and a busy machine.
        "RAY_ADDRESS": "local",
        "RAY_gcs_server_port_wait_time_s": "300",
        "DO_NOT_TRACK": "1",
    }
)
for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT", "D2S_TRACEBACK", "PYTHONPATH"):
    os.environ.pop(name, None)


# A shell that starts the tests in the background has them ignore Ctrl-C, and with them each process
# that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a world of coloured photos with sparse and dense texts, tiny.yaml."""
    from tests.vse.world import write_project  # torch is not imported for tests without it

    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium. For one module alone: its driver's event loop runs in this thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    # Chromium's own sandbox refuses to work for root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(
            executable_path=program, args=options, timeout=1000 * HANG_SECONDS
        )
        yield launched
        launched.close()
