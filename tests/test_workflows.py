"""The workflows of continuous integration: their form, and what a linter of their security says."""

import subprocess
import sys
from pathlib import Path

import yaml

from tests.test_packaging import read_setup

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github/workflows"


def call(*words: str) -> None:
    """A tool of this environment."""
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run([program, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_are_of_the_form_that_github_reads() -> None:
    files = map(str, WORKFLOWS.glob("*.yml"))
    call("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files)


def test_they_ask_for_no_more_than_they_need() -> None:
    """Pinned actions, no rights, no credentials left behind, no text of others in a shell."""
    call("zizmor", "--offline", "--quiet", str(WORKFLOWS))


def test_every_python_is_tried_and_the_plain_index_too() -> None:
    jobs = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]
    tried = jobs["test"]["strategy"]["matrix"]["python"]
    assert [f":: {version}" in read_setup()["metadata"]["classifiers"] for version in tried]
    commands = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert commands == {"make lint", ".ci/run", "python3 -m tools.stranger --build plain"}
