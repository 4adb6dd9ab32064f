"""For every test: one thread, no network, no cache but its own. Set before any import."""

import os
import shutil
import signal
import tempfile

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
