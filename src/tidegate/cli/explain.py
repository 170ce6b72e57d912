"""``tidegate explain``, ``replay-decision`` and ``statements``: what the audit trail knows of a video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tidegate.platform.config import PlatformConfig
    from tidegate.platform.history import Chapter

__all__ = ["register"]

BAD_USAGE, DIFFERENT, UNKNOWN = 2, 3, 4
Config = Annotated[Path, typer.Option("--config", help="Configuration file of the platform (TOML).")]
Video = Annotated[str, typer.Argument(metavar="VIDEO_ID", show_default=False, help="The platform's id of the video.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command("explain")(explain)
    app.command("replay-decision")(replay_decision)
    app.command("statements")(statements)


def _history(config: Path, video_id: str) -> tuple[PlatformConfig, list[Chapter]]:
    from tidegate.platform.config import read_config
    from tidegate.platform.history import history_of

    checked = read_config(config)
    chapters = history_of(checked.state / "audit", video_id)
    if not chapters:
        typer.echo(f"error: the audit trail holds nothing about {video_id!r}", err=True)
        raise typer.Exit(UNKNOWN)
    return checked, chapters


def explain(video_id: Video, config: Config, *, as_json: Json = False) -> None:
    """Tell the whole story of a video: every decision, what it rests on, and why."""
    import msgspec

    from tidegate.errors import TidegateError
    from tidegate.platform.history import explain as tell

    try:
        _, chapters = _history(config, video_id)
    except TidegateError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from error
    if not as_json:
        typer.echo(tell(chapters))
        return
    for chapter in chapters:
        record = {"chain": chapter.chain, "setup": chapter.setup, "entry": chapter.entry}
        typer.echo(msgspec.json.encode(record).decode())


def replay_decision(
    video_id: Video,
    config: Config,
    *,
    version: Annotated[int | None, typer.Option(help="Of the event; default: the latest decision.")] = None,
) -> None:
    """Take a recorded decision again; exit code 3 if anything differs, to the last bit."""
    from tidegate.errors import TidegateError
    from tidegate.platform.history import reproduce

    try:
        checked, chapters = _history(config, video_id)
        decided = [chapter for chapter in chapters if chapter.entry.verdict is not None]
        chosen = [chapter for chapter in decided if version in {None, chapter.entry.version}]
        if not chosen:
            typer.echo(f"error: expected a decision about version {version} of {video_id!r}, got none", err=True)
            raise typer.Exit(UNKNOWN)
        again = reproduce(checked, chosen[-1])
    except TidegateError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from error
    if again.equal:
        typer.echo(f"{video_id} version {again.version}: the same to the last bit")
        return
    for difference in again.differences:
        typer.echo(difference)
    raise typer.Exit(DIFFERENT)


def statements(
    config: Config,
    grounds: Annotated[Path, typer.Option(help="What each clause is in law (TOML), see docs/platform.md.")],
) -> None:
    """Statements of reasons (DSA, Article 17) of all removals, as bodies for the EU transparency database."""
    import msgspec

    from tidegate.errors import TidegateError
    from tidegate.platform.audit import read_lines
    from tidegate.platform.config import read_config
    from tidegate.platform.history import Chapter
    from tidegate.platform.records import AuditEntry
    from tidegate.platform.statement import payloads, read_grounds

    try:
        trail = read_config(config).state / "audit"
        chapters = (
            Chapter(entry=msgspec.json.decode(line.raw, type=AuditEntry), setup=line.setup, chain=line.chain)
            for line in read_lines(trail, keep=lambda raw: b'"removed"' in raw)
        )
        for body in payloads(chapters, read_grounds(grounds)):
            typer.echo(json.dumps(body))
    except TidegateError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from error
