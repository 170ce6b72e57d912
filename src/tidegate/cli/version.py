"""``tidegate version``: which Tidegate this is."""

from __future__ import annotations

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""

    @app.command("version")
    def version() -> None:
        """Print the version."""
        from tidegate import __version__

        typer.echo(__version__)
