"""Errors that a user can mend, as one line on stderr and an exit code: 2 for bad usage, 1 for anything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["said_plainly"]


@contextmanager
def said_plainly() -> Iterator[None]:
    """Turn a ``TidegateError`` into its code, its words and an exit code; anything else passes."""
    from tidegate.errors import TidegateError, UsageError

    try:
        yield
    except TidegateError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
