"""The command line. One thin file per verb: parse, build a configuration, call.

Only typer and the standard library are imported at the top of any file here, so that ``tidegate --help`` answers at
once; everything heavy is imported inside the verb that needs it.
"""

from __future__ import annotations

import typer

from tidegate.cli import (
    bench,
    calibrate,
    compare,
    corpus,
    demo,
    diagnose,
    evaluate,
    explain,
    export,
    intervene,
    pipeline,
    probe,
    reproduce,
    scan,
    train,
    version,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="tidegate",
    help="Moderate videos with a cascade: a cheap model looks at everything, "
    "an audio-visual-language model looks at what deserves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (scan, demo, probe, corpus, train, evaluate, export, calibrate, pipeline, explain, diagnose, intervene,
             compare, bench, reproduce, version):
    verb.register(app)


def main() -> None:
    """Entry point of the ``tidegate`` command."""
    app()
