"""``tidegate export``: a trained checkpoint becomes what is deployed, and it is said what that costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from tidegate.cli.plainly import said_plainly

if TYPE_CHECKING:
    from tidegate.training.export import ExportResult

__all__ = ["register"]

_EPILOG = """
Examples:

    tidegate export --checkpoint base --to openvino --int8 --data corpus/manifest.parquet --out base-int8

    tidegate export --checkpoint base --to onnx --out base-onnx

    tidegate export --checkpoint large --adapter large-lora --to merged --out large-merged

An export of the base stage stands wherever a checkpoint stands: tidegate evaluate --checkpoint base-int8.
"""


def _export(
    *,
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; replaced as a whole.")],
    to: Annotated[
        str, typer.Option(help="openvino or onnx (base stage), merged (AVLM with its adapter).")
    ] = "openvino",
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to 8 bits; needs --data.")] = False,
    data: Annotated[Path | None, typer.Option(help="Manifest with splits, for calibration and comparison.")] = None,
    split: Annotated[str, typer.Option(help="Split on which export and model are compared.")] = "test",
    calibration_videos: Annotated[int, typer.Option(min=1, help="Training videos that int8 ranges come from.")] = 100,
    max_videos: Annotated[int | None, typer.Option(min=2, help="Videos of a split at most.")] = None,
    max_auc_loss: Annotated[float | None, typer.Option(help="Refuse an export that loses more AUC.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter folder, for merged.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Feature cache; beside the manifest by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Decoding processes.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Export a checkpoint: base stages to OpenVINO or ONNX (float32 or int8), AVLMs with their LoRA merged."""
    from tidegate.errors import UsageError
    from tidegate.training.console import console_progress
    from tidegate.training.export import ExportConfig, export_merged, export_stage

    with said_plainly():
        if to == "merged":
            result = export_merged(checkpoint, adapter, out)
        elif adapter is not None:
            raise UsageError("expected --adapter with --to merged alone")
        else:
            config = ExportConfig(
                backend=cast(Literal["onnx", "openvino"], to),
                int8=int8,
                calibration_videos=calibration_videos,
                split=split,
                max_auc_loss=max_auc_loss,
                max_videos=max_videos,
            )
            with console_progress() as progress:
                result = export_stage(
                    checkpoint, out, config, data=data, cache=cache, workers=workers, progress=progress.on_decode
                )
    typer.echo(json.dumps(result.to_dict()) if as_json else _said(result))


def _said(result: ExportResult) -> str:
    lines = [f"{name}  {size / 1e6:.2f} MB" for name, size in result.files.items()]
    lines.append(f"largest difference of scores: {result.max_score_difference:.2e}")
    if result.comparison is not None:
        compared = result.comparison
        pairs = {"AUC before": compared.auc_before, "AUC after": compared.auc_after, "AUC lost": compared.auc_loss}
        lines += [f"{name}: {item.estimate:.4f} ({item.low:.4f} to {item.high:.4f})" for name, item in pairs.items()]
        lines.append(f"compared on {compared.videos} videos")
    return "\n".join([*lines, f"written to {result.folder}"])


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("export", epilog=_EPILOG)(_export)
