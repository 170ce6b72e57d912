"""``tidegate probe``: what video files hold, from their content."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""

    @app.command("probe")
    def probe(
        paths: Annotated[list[Path], typer.Argument(help="Video files.")],
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file on standard output.")] = False,
    ) -> None:
        """Show duration, frames, size, tracks and warnings of video files, read from their content.

        Exit code 3 when some file could not be read; its reason is shown in its place.
        """
        import json

        from tidegate.errors import MediaError
        from tidegate.media import DecoderPool, describe

        failed = False
        with DecoderPool(workers=1) as pool:
            for path in paths:
                try:
                    facts = describe(pool.probe(path))
                except MediaError as error:
                    failed = True
                    facts = {"path": str(path).encode("utf-8", "backslashreplace").decode()}
                    facts |= {"error": error.code, "reason": str(error)}
                typer.echo(json.dumps(facts) if as_json else _lines(facts))
        raise typer.Exit(3 if failed else 0)


def _lines(facts: dict[str, object]) -> str:
    hidden = {"path", "frame_pts_seconds", "keyframe_pts_seconds"}
    width = max(len(name) for name in facts)
    rows = [f"  {name:<{width}}  {value}" for name, value in facts.items() if name not in hidden]
    return "\n".join([str(facts["path"]), *rows])
