"""``tidegate pipeline ...``: the video management platform: run it, look at it, replay, backtest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tidegate.platform.config import PlatformConfig

__all__ = ["register"]

pipeline = typer.Typer(
    name="pipeline", help="The platform: events in, verdicts into an index, day and night.", no_args_is_help=True
)

BAD_USAGE = 2
Config = Annotated[Path, typer.Option("--config", help="Configuration file (TOML), see docs/platform.md.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.add_typer(pipeline)


def _read(path: Path) -> PlatformConfig:
    from tidegate.errors import ConfigError
    from tidegate.platform.config import read_config

    try:
        return read_config(path)
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from error


@pipeline.command("run")
def run(
    config: Config,
    *,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Leave when everything is done.")] = False,
) -> None:
    """Work until told to stop (SIGTERM, Ctrl-C): the batch in hand is finished first."""
    from tidegate.errors import TidegateError
    from tidegate.platform.supervisor import run_platform

    checked = _read(config)
    try:
        code = run_platform(checked, until_idle=until_idle)
    except TidegateError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from error
    raise typer.Exit(code)


@pipeline.command("check")
def check(config: Config) -> None:
    """Read the configuration and say what it means; nothing is opened."""
    checked = _read(config)
    chosen = {"source": checked.source, "scoring": checked.scoring, "index": checked.index}
    for name, choice in chosen.items():
        typer.echo(f"{name}: {choice.kind}")
    typer.echo(f"policy: {checked.policy.name}@{checked.policy.version}")
    certificate = checked.policy.routing.certificate
    typer.echo(f"certificate: {'none, no promise' if certificate is None else certificate}")
    typer.echo(f"shadow policies: {', '.join(checked.shadows) or 'none'}")
    typer.echo(f"workers: {checked.workers}, state in {checked.state}")


@pipeline.command("status")
def status(config: Config, *, as_json: Json = False) -> None:
    """What the index, the dead letters, the waiting room and the audit trail hold now."""
    from tidegate.errors import TidegateError
    from tidegate.platform.overview import overview

    try:
        seen = overview(_read(config))
    except TidegateError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from error
    _show(seen, as_json=as_json)


@pipeline.command("replay")
def replay(
    config: Config,
    *,
    dead_letters: Annotated[bool, typer.Option("--dead-letters", help="Dead letters; else a time range.")] = False,
    code: Annotated[str | None, typer.Option(help="Only dead letters with this cause.")] = None,
    since: Annotated[str | None, typer.Option(help="From this instant on (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this instant (ISO 8601).")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Decide again under the present policy and models.")] = False,
    as_json: Json = False,
) -> None:
    """Run dead letters, or the events of a time range, through the platform once more."""
    from tidegate.errors import TidegateError
    from tidegate.platform.overview import replay_letters, replay_range

    checked = _read(config)
    if not dead_letters and since is None:
        typer.echo("error: expected --dead-letters or --since", err=True)
        raise typer.Exit(BAD_USAGE)
    begin, end = _instant(since, "--since"), _instant(until, "--until")
    try:
        if dead_letters:
            stats = replay_letters(checked, code=code, since=begin, until=end)
        else:
            stats = replay_range(checked, since=begin or 0.0, until=end, renew=renew)
    except TidegateError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from error
    _show(stats, as_json=as_json)


@pipeline.command("verify")
def verify(config: Config, *, as_json: Json = False) -> None:
    """Recompute the audit trail's chain; exit code 3 if anything was changed."""
    from dataclasses import asdict

    from tidegate.platform.audit import verify as verify_trail

    summary = verify_trail(_read(config).state / "audit")
    _show(asdict(summary), as_json=as_json)
    raise typer.Exit(0 if summary.intact else 3)


@pipeline.command("serve-scorer")
def serve_scorer(
    config: Config,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8090,
) -> None:
    """Show the configuration's scorer over HTTP, for workers whose scoring is ``kind = "http"``."""
    from tidegate.platform.overview import show_scorer

    show_scorer(_read(config), host=host, port=port, announce=lambda url: typer.echo(f"scoring at {url}"))


@pipeline.command("backtest")
def backtest(
    stream: Annotated[Path, typer.Option(help="Logged stream: Parquet or CSV, see docs/platform.md.")],
    live: Annotated[Path, typer.Option(help="Policy file of the first configuration.")],
    candidate: Annotated[Path, typer.Option(help="Policy file of the second configuration.")],
    *,
    samples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    as_json: Json = False,
) -> None:
    """Replay a logged stream under two configurations: the A/B test offline, with paired intervals."""
    from tidegate.errors import TidegateError
    from tidegate.pipeline.policy_file import read_policy
    from tidegate.platform.backtest import compare, read_stream

    try:
        report = compare(read_stream(stream), read_policy(live), read_policy(candidate), samples=samples, seed=seed)
    except TidegateError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from error
    typer.echo(json.dumps(report.to_dict()) if as_json else report.table())


@pipeline.command("experiment")
def experiment(
    config: Config,
    *,
    effect: Annotated[float, typer.Option(help="Difference of removal rates that should be found soonest.")] = 0.01,
    as_json: Json = False,
) -> None:
    """Arms, sample ratio and removal rates of the experiment so far; may be looked at at any time."""
    from dataclasses import asdict

    from tidegate.platform.experiment import Assignment, experiment_report

    checked = _read(config)
    if checked.experiment is None:
        typer.echo(f"error: {config}: expected a table [experiment], got none", err=True)
        raise typer.Exit(BAD_USAGE)
    settings = checked.experiment.settings
    assignment = Assignment(experiment=settings.name, shares=settings.shares, unit=settings.unit)
    _show(asdict(experiment_report(checked.state / "audit", assignment, effect=effect)), as_json=as_json)


def _instant(text: str | None, option: str) -> float | None:
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        typer.echo(f"error: {option}: expected an ISO 8601 instant, got {text!r}", err=True)
        raise typer.Exit(BAD_USAGE) from error
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _show(record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(record, default=str))
        return
    for key, value in record.items():
        shown = json.dumps(value, default=str) if isinstance(value, dict | list) else value
        typer.echo(f"{key}: {shown}")
