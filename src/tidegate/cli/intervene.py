"""``tidegate intervene``: carry out a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_EPILOG = """
Examples:

    tidegate intervene diagnosis/plan.toml

    tidegate intervene diagnosis/plan.toml --only slice_threshold

    tidegate intervene diagnosis/plan.toml --only distil --start

Exit codes: 0 done, 1 a training failed, 2 bad usage.
"""


def _intervene(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", show_default=False, help="Plan, as diagnose writes it.")],
    *,
    only: Annotated[list[str] | None, typer.Option(help="Only this step of the plan; may repeat.")] = None,
    start: Annotated[bool, typer.Option("--start", help="Start trainings too; without it they are printed.")] = False,
    judge: Annotated[str, typer.Option(help="rules, learned, or auto, as for the diagnosis.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Carry out what needs no training at once; print, or with --start run, the trainings."""
    from tidegate.cli.plainly import said_plainly

    with said_plainly():
        from tidegate.diagnosis.plan import carry_out, read_plan

        done = carry_out(read_plan(plan), only=tuple(only or ()), start_training=start, judge=judge)
    if as_json:
        rows = [{"name": one.name, "needs_training": one.needs_training, "command": one.command, "detail": one.detail,
                 "folder": None if one.folder is None else str(one.folder), "exit_code": one.exit_code} for one in done]
        typer.echo(json.dumps({"steps": rows}))
    else:
        for one in done:
            where = f" → {one.folder}" if one.folder else ""
            typer.echo(f"{one.name}: {one.detail}{where}")
            if one.command:
                typer.echo(f"    {one.command}")
    if any(one.exit_code for one in done):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("intervene", epilog=_EPILOG)(_intervene)
