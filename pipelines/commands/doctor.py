"""`d2s doctor`: what works on this machine, what does not, why, and what to do."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import click

from pipelines.console.command_line import print_result, print_text, say
from pipelines.console.options import shared
from pipelines.doctor.check import Check
from pipelines.doctor.machine import check_cpu, check_devices, check_folder, check_memory
from pipelines.doctor.models import check_captioners, check_hub, check_shipped_model, check_towers
from pipelines.doctor.packages import (
    check_cluster,
    check_imports,
    check_python,
    check_requirements,
    check_unwelcome,
    check_vllm,
)


def examine(say: Callable[[str], None]) -> Iterator[Check]:
    """Run every check; `say` is called before slow ones."""
    yield check_python()
    yield check_requirements()
    if (unwelcome := check_unwelcome()) is not None:
        yield unwelcome
    say("importing torch and transformers ...")
    yield check_imports()
    devices = check_devices()
    yield devices
    say("importing vllm ...")
    yield check_vllm(gpu=bool(devices.facts.get("gpus")))
    yield check_cluster()
    yield check_cpu()
    yield check_memory()
    yield check_folder()
    hub = check_hub()
    yield hub
    yield check_shipped_model()
    yield check_captioners(reachable=hub.facts["reachable"])
    yield check_towers(reachable=hub.facts["reachable"])


def format_check(check: Check) -> list[str]:
    """One line, and a second one with the remedy, if any."""
    line = f"{check.state:<4}  {check.name:<13} {check.detail}"
    return [line, f"{'':<20}-> {check.remedy}"] if check.remedy else [line]


def summarise(checks: Sequence[Check]) -> str:
    """The last line: whether the demo can run."""
    failed = [check.name for check in checks if check.state == "fail"]
    warned = [check.name for check in checks if check.state == "warn"]
    if failed:
        return f"d2s cannot do its main job here, see above: {', '.join(failed)}"
    return "d2s can run here" + (f"; worth a look: {', '.join(warned)}" if warned else "")


@click.command()
@shared("json")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine: what works, what does not, why, and what to do about it.

    Checks packages, devices, the captioning engine, memory, disk and cached weights. Takes about
    half a minute because the large packages are imported. Exits with 1 if the demo cannot run.

    \b
    Examples:
      d2s doctor
      d2s doctor --json
    """
    checks = []
    for check in examine(say):
        checks.append(check)
        if not as_json:
            print_text(format_check(check))
    healthy = all(check.state != "fail" for check in checks)
    about = {"ok": healthy, "checks": list(map(asdict, checks))}
    print_result(about, ["", summarise(checks)], as_json=as_json)
    ctx.exit(0 if healthy else 1)
