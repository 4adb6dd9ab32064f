"""`d2s export-onnx`: a trained model's towers as ONNX files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pipelines.console.command_line import print_dry_run, print_result, say
from pipelines.console.options import shared


@click.command()
@click.argument("model", metavar="RUN")
@shared("out", required=True)
@shared("dry-run", "json")
def export_onnx(model: str, out: Path, dry_run: bool, as_json: bool) -> None:
    """Export both towers of RUN (a folder, or OWNER/NAME on the Hub) to ONNX.

    Writes image.onnx, text.onnx, the tokenizer and preprocessing.json, enough to use the model
    without torch. The outputs are compared with the model's before the files are kept.

    \b
    Examples:
      d2s export-onnx runs/stage2 --out towers
    """
    from vse.embedders.embedder import load_identified
    from vse.onnx.export import check_export, export_towers
    from vse.runs.models import find_model, identify_model

    folder = find_model(model)
    identity = identify_model(folder, name=model)
    say(f"model     {model} ({identity.px} px, weights {identity.weights_sha256[:12]})")
    check_export(out)
    if dry_run:
        print_dry_run([f"{out}/"], as_json=as_json)
        return
    exported = export_towers(load_identified(folder, identity, device="cpu"), identity, out)
    lines = [
        f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}",
        "largest difference from the model: "
        f"images {exported.image_difference:.1e}, texts {exported.text_difference:.1e}",
    ]
    print_result({**asdict(exported), "folder": str(out)}, lines, as_json=as_json)
