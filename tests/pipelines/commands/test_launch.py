"""`d2s launch slurm`: a script that Slurm would take, run by a stand-in that runs what is in it."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captioner.store.verification import verify_run
from data.dense.run import read_run
from pipelines import cli
from pipelines.workflow.slurm import SlurmJob
from tests.captioner.images import write_images
from tests.waiting import HANG_SECONDS

# Runs each task of the array as a process, and says what Slurm says.
SBATCH = r"""
import os, re, subprocess, sys
script = sys.argv[-1]
text = open(script, "rb").read().decode(errors="surrogateescape")
last = int(re.search(r"^#SBATCH --array=0-(\d+)$", text, re.M).group(1))
tasks = []
for task in range(last + 1):
    ids = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(70 + task)}
    tasks.append(subprocess.Popen(["bash", script], env={**os.environ, **ids}, cwd="/"))
sys.exit(max(task.wait() for task in tasks) or print("Submitted batch job 70"))
"""
COMMAND = ("d2s", "caption", "--engine", "scripted", "--model", "any", "--shard-size", "3")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands: a name that a shell would take apart, with programs of its own."""
    place = tmp_path / 'it\'s $(here); "a" b'
    (place / "bin").mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
    return place


def add_program(folder: Path, name: str, lines: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"{lines}")
    path.chmod(0o755)


def launch(*words: object, tasks: int = 3) -> int:
    return cli.run(["launch", "slurm", "--tasks", str(tasks), *(str(word) for word in words)])


def test_the_tasks_share_one_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images(folder / "i", 20)
    add_program(folder, "sbatch.py", SBATCH)
    program = shlex.join([sys.executable, str(folder / "bin" / "sbatch.py")])
    add_program(folder, "sbatch", f'#!/bin/bash\nexec {program} "$@"\n')
    given = (*COMMAND, "--images", "i", "--prompt", "$(touch hostile)\n#SBATCH 'x' \"%s\" {0}")
    assert cli.run([*given[1:], "--out", "alone"]) == 0
    assert launch("--submit", "--", *given, "--out", "shared") == 0
    assert "Submitted batch job 70" in capfd.readouterr().out
    shards = [
        {p.name: p.read_bytes() for p in Path(n).glob("*.parquet")} for n in ("alone", "shared")
    ]
    assert shards[0] == shards[1] and verify_run(Path("shared")).ok
    ranks = {words[words.index("--rank") + 1] for words in read_run(Path("shared"))["commands"]}
    # A task that starts after the others have finished has nothing to record.
    assert ranks and ranks <= {"0", "1", "2"} and not Path("hostile").exists()


def test_what_the_script_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(folder / "i", 2)
    options = ("--partition", "gpu,big", "--time", "1-12:00:00", "--gpus-per-task", "2")
    options = (*options, "--sbatch", "--account=me", "--sbatch", "-C a100")
    assert launch(*options, "--", *COMMAND[1:], "--images", "i") == 0
    assert "sbatch d2s-caption.sh" in capsys.readouterr().out
    subprocess.run(["bash", "-n", "d2s-caption.sh"], check=True)
    lines = Path("d2s-caption.sh").read_text().splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert {"--array=0-2", "--gres=gpu:2", "--partition=gpu,big", "--time=1-12:00:00"} < set(asked)
    assert {"--requeue", "--account=me", "-C a100"} < set(asked)
    # Slurm reads them as far as the first line that is a command.
    begin = next(n for n, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[begin:])
    # Without GPUs none is asked for; what it wrote itself it may write again.
    assert launch("--gpus-per-task", "0", "--", *COMMAND, "--images", "i") == 0
    assert "gres" not in Path("d2s-caption.sh").read_text()


@pytest.mark.parametrize("heard", [signal.SIGUSR1, signal.SIGTERM])
def test_a_task_whose_time_ends_saves_and_queues_itself_again(
    folder: Path, heard: signal.Signals
) -> None:
    """One that is cancelled (SIGTERM) saves too, and is gone."""
    names = write_images(folder / "i", 5)
    asked, answer = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(names[-1]):
                asked.set()
                answer.wait(HANG_SECONDS)
            content = (folder / "i" / self.path[1:]).read_bytes()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    add_program(folder, "scontrol", '#!/bin/bash\necho "$@" > "$(dirname "$0")/told"\n')
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        Path("list.txt").write_text("".join(f"{address}/{name}\n" for name in names))
        assert launch("--", *COMMAND, "--images", "list.txt", "--out", "o", tasks=1) == 0
        start: Callable[[], subprocess.Popen[bytes]] = lambda: subprocess.Popen(  # noqa: E731
            ["bash", "d2s-caption.sh"],
            env={**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "70_0"},
        )
        task = start()
        assert asked.wait(HANG_SECONDS)
        task.send_signal(heard)
        assert task.wait(HANG_SECONDS) == 130
        answer.set()
        assert start().wait(HANG_SECONDS) == 0
        server.shutdown()
    told = folder / "bin" / "told"
    assert told.exists() == (heard is signal.SIGUSR1)
    assert not told.exists() or told.read_text() == "requeue 70_0\n"
    assert verify_run(Path("o")).rows == 5


@pytest.mark.parametrize(
    ("options", "command", "code", "told"),
    [
        (("--partition", "a\n#SBATCH --uid=0"), COMMAND, 2, "--partition"),
        (("--partition", "a b"), COMMAND, 2, "--partition"),
        (("--time", "soon"), COMMAND, 2, "--time"),
        (("--sbatch", "rm -rf"), COMMAND, 2, "--sbatch"),
        (("--sbatch", "--comment=a\rb"), COMMAND, 2, "--sbatch"),
        ((), (*COMMAND, "--rank", "1", "--world-size", "2"), 2, "--rank"),
        ((), (*COMMAND, "--set", "placement.cluster=ray"), 2, "--cluster"),
        ((), (*COMMAND, "--dry-run"), 2, "--dry-run"),
        ((), (*COMMAND, "--shard-size", "0"), 2, "--shard-size"),
        ((), ("d2s", "verify", "o"), 2, "d2s caption"),
        ((), (), 2, "d2s caption"),
        (("--submit",), COMMAND, 1, "no sbatch here"),
        (("--script", "mine.sh"), COMMAND, 1, "--overwrite"),
    ],
)
def test_what_is_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    command: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    Path("mine.sh").write_text("mine")
    images = ("--images", "i") if command[:2] == COMMAND[:2] else ()
    assert launch(*options, "--", *command, *images) == code
    assert told in capsys.readouterr().err
    assert Path("d2s-caption.sh").exists() == ("--submit" in options)
    assert Path("mine.sh").read_text() == "mine"


def test_what_sbatch_refuses_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_program(folder, "sbatch", "#!/bin/bash\necho 'error: no such partition' >&2\nexit 1\n")
    assert launch("--submit", "--", *COMMAND, "--images", "i") == 1
    assert "no such partition" in capsys.readouterr().err


def test_words_that_are_no_text_stay_as_they_are() -> None:
    word = os.fsdecode(b"caf\xe9")
    script = SlurmJob(1).write_script(["caption", "--images", word])
    assert re.search(rb"--images '?caf\xe9'?", script)
