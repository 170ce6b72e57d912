"""A whole worker from a configuration file: embedded, observed, drained, replayed, scored over HTTP."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest
from platform_doubles import event
from servers.process import wait_until

from tidegate.errors import ServiceRefused, ServiceUnavailable
from tidegate.platform.audit import verify
from tidegate.platform.config import read_config
from tidegate.platform.contracts import Decided, ScoringItem
from tidegate.platform.event import EventCodec
from tidegate.platform.eventlog import write_log
from tidegate.platform.metrics import SERIES, PlatformMeasures
from tidegate.platform.overview import overview, replay_letters, replay_range
from tidegate.platform.scoring.feature import FeatureScorer, FeatureScorerSettings
from tidegate.platform.scoring.http import HttpScorer, HttpScorerSettings, ScoringServer
from tidegate.platform.telemetry import log, set_up_logging
from tidegate.platform.worker import Worker

CONFIG = """
[platform]
policy_file = "policy.toml"
shadow_policies = ["strict.toml"]
workers = {workers}
[batch]
max_batch = 64
poll_seconds = 0.02
[retry]
max_attempts = 1
[audit]
sync = false
[source]
kind = "log"
folder = "events"
[scoring]
kind = "feature"
feature = "score"
[operations]
{operations}
"""
POLICY = """
[policy]
name = "{name}"
version = "1"
[[clause]]
id = "icd-1"
issue = "icd"
title = "t"
remove_at = {at}
"""


def platform(folder: Path, *, num_events: int = 300, workers: int = 1, operations: str = "") -> Path:
    codec = EventCodec()
    for partition in range(2):
        messages = [
            codec.encode(event(
                f"v{number}", 10**12 + number, region="DE",
                features={"score": number % 100 / 100} if number % 50 else {},
            ))
            for number in range(partition, num_events, 2)
        ]
        write_log(folder / "events", f"p{partition}", messages)
    (folder / "policy.toml").write_text(POLICY.format(name="live", at=0.8))
    (folder / "strict.toml").write_text(POLICY.format(name="strict", at=0.5))
    path = folder / "platform.toml"
    path.write_text(CONFIG.format(workers=workers, operations=operations))
    return path


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_worker_is_embedded_and_says_what_it_holds(tmp_path: Path) -> None:
    config = read_config(platform(tmp_path))
    with Worker(config) as worker:
        stats = worker.run(until_idle=True)
    assert stats.accounted
    assert stats.counts == {"remained": 234, "removed": 60, "dead": 6}
    seen = overview(config)
    assert seen["index"] == {"remained": 234, "removed": 60}
    assert (seen["dead_letters"], seen["waiting"]) == (6, {})
    assert seen["audit"]["entries"] == 300
    assert seen["audit"]["intact"]


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return port


def test_metrics_health_and_traces_tell_what_happened(tmp_path: Path, free_port: int) -> None:
    operations = f'port = {free_port}\ntrace_file = "traces.jsonl"\n[budget]\nmodel_seconds_per_thousand = 10\n'
    config = read_config(platform(tmp_path, operations=operations))
    with Worker(config) as worker:
        assert get(free_port, "/readyz") == (200, "ok\n")
        assert get(free_port, "/healthz") == (200, "ok\n")
        worker.run(until_idle=True)
        code, text = get(free_port, "/metrics")
        assert code == 200
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert float(lines['tidegate_items_total{status="remained"}']) == 234
        assert float(lines["tidegate_items_in_total"]) == 300
        assert float(lines['tidegate_shadow_items_total{policy="strict@1",status="removed"}']) == 147
        assert float(lines["tidegate_dead_letters"]) == 6
        assert float(lines['tidegate_added_latency_seconds_bucket{le="+Inf"}']) == 300
        assert float(lines['tidegate_added_latency_quantile_seconds{quantile="0.99"}']) > 0
        names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        created = {name for name in names if name.endswith("_created")}
        missing = set(SERIES) - names - {name + "_total" for name in names} - {"tidegate_outbox_depth"}
        assert not missing
        assert names - created <= set(SERIES) | {name.removesuffix("_total") for name in SERIES}
        assert get(free_port, "/readyz") == (503, "draining\n")
        status = json.loads(get(free_port, "/status")[1])
        assert status["items"] == {"remained": 234, "removed": 60, "dead": 6}
        assert get(free_port, "/nothing")[0] == 404
    spans = [json.loads(line) for line in (tmp_path / "traces-w0.jsonl").read_text().splitlines()]
    batches = {span["context"]["span_id"] for span in spans if span["name"] == "batch"}
    inside = [span for span in spans if span["name"] in {"score", "filter", "index", "audit"}]
    assert inside
    assert all(span["parent_id"].removeprefix("0x") in {b.removeprefix("0x") for b in batches} for span in inside)


def test_outage_shows_in_readiness(tmp_path: Path, free_port: int) -> None:
    config = read_config(platform(tmp_path, operations=f"port = {free_port}\n"))
    with Worker(config) as worker:
        worker._main.outage = "index: the server is away"
        assert get(free_port, "/readyz") == (503, "index: the server is away\n")
        assert get(free_port, "/healthz")[0] == 200


def run_cli(path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    code = (
        "import sys, typer; from tidegate.cli import pipeline; app = typer.Typer(pretty_exceptions_enable=False); "
        "pipeline.register(app); app.callback()(lambda: None); app(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "pipeline", *arguments, "--config", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_drains_and_the_next_run_goes_on(tmp_path: Path, workers: int) -> None:
    path = platform(tmp_path, num_events=400, workers=workers)
    process = run_cli(path, "run")
    try:
        index = tmp_path / "state" / "index.db"
        deadline = time.monotonic() + 60
        while not index.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    stopped = [json.loads(line) for line in errors.splitlines() if b'"stopped"' in line]
    assert 1 <= len(stopped) <= workers  # a worker that was still starting just ends
    assert all(line["accounted"] for line in stopped)
    again = run_cli(path, "run", "--until-idle")
    assert again.wait(timeout=120) == 0
    again.communicate()
    assert overview(read_config(path))["index"] == {"remained": 312, "removed": 80}
    assert verify(tmp_path / "state" / "audit").intact


@pytest.mark.parametrize("workers", [1, 2])
def test_hangup_reads_the_policy_again_in_every_worker(tmp_path: Path, workers: int) -> None:
    path, lines = platform(tmp_path, num_events=10, workers=workers), list[dict[str, object]]()
    process = run_cli(path, "run")
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(map(json.loads, process.stderr)), daemon=True)  # type: ignore[arg-type]
    reader.start()

    def said(event: str) -> int:
        assert process.poll() is None, lines
        return sum(line["event"] == event for line in lines)

    try:
        wait_until(lambda: said("started") == workers, "all workers", every_seconds=0.05)
        (tmp_path / "policy.toml").write_text(POLICY.format(name="live", at=0.6).replace('"1"', '"2"'))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: said("policy_loaded") == workers, "the second policy everywhere", every_seconds=0.05)
        (tmp_path / "policy.toml").write_text("nonsense = 1")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: said("policy_refused") == workers, "a refusal everywhere", every_seconds=0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert {line["policy"] for line in lines if line["event"] == "policy_loaded"} == {"live@2"}


def test_configuration_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = platform(tmp_path)
    path.write_text(path.read_text() + "colour = 1\n")
    process = run_cli(path, "run")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.decode().count("\n") == 1
    assert "operations.colour: unknown key" in errors.decode()
    assert not (tmp_path / "state").exists()


def test_dead_letters_are_replayed_after_the_cause_was_mended(tmp_path: Path) -> None:
    path = platform(tmp_path)
    config = read_config(path)
    with Worker(config) as worker:
        worker.run(until_idle=True)
    assert replay_letters(config, code="no_such_code", since=None, until=None)["taken"] == 0
    again = replay_letters(config, code=None, since=None, until=None)
    assert again["items"] == {"dead": 6}
    assert overview(config)["dead_letters"] == 6
    path.write_text(path.read_text().replace('feature = "score"', 'feature = "missing_score"'))
    broken = read_config(path)
    assert replay_letters(broken, code="score_missing", since=None, until=None)["items"] == {"dead": 6}
    text = path.read_text().replace('kind = "feature"\nfeature = "missing_score"', 'kind = "http"\nurl = "URL"')
    with_scorer = FeatureScorer(FeatureScorerSettings(feature="constant"))

    class Constant(FeatureScorer):
        def score_many(self, items: object) -> list[object]:
            return list(with_scorer.score_many([
                ScoringItem(item.event, {"constant": 0.1}) for item in items  # type: ignore[attr-defined]
            ]))

    server = ScoringServer(Constant())
    try:
        path.write_text(text.replace("URL", server.url))
        mended = read_config(path)
        assert replay_letters(mended, code=None, since=None, until=None)["items"] == {"remained": 6}
    finally:
        server.close()
    assert overview(mended)["dead_letters"] == 0
    assert overview(mended)["index"] == {"remained": 240, "removed": 60}


def test_time_range_is_decided_again_only_when_renewed(tmp_path: Path) -> None:
    path = platform(tmp_path)
    config = read_config(path)
    with Worker(config) as worker:
        worker.run(until_idle=True)
    (tmp_path / "policy.toml").write_text(POLICY.format(name="live", at=0.3))
    stricter = read_config(path)
    kept = replay_range(stricter, since=0.0, until=None, renew=False)
    assert (kept["applied"], kept["skipped"]) == (0, 294)
    assert overview(stricter)["index"] == {"remained": 234, "removed": 60}
    renewed = replay_range(stricter, since=0.0, until=None, renew=True)
    assert renewed["applied"] == 294
    assert overview(stricter)["index"] == {"remained": 87, "removed": 207}


def items() -> list[ScoringItem]:
    return [ScoringItem(event(f"v{n}", features={"score": n / 10}), {"score": n / 10}) for n in range(7)]


def test_scores_over_http_equal_those_in_process() -> None:
    local = FeatureScorer(FeatureScorerSettings(feature="score"))
    server = ScoringServer(local)
    try:
        remote = HttpScorer(HttpScorerSettings(url=server.url, max_items=3))
        assert remote.score_many(items()) == local.score_many(items())
    finally:
        server.close()
    with pytest.raises(ServiceUnavailable):
        remote.score_many(items())


def test_scoring_server_refuses_what_is_no_batch() -> None:
    server = ScoringServer(FeatureScorer())
    try:
        request = urllib.request.Request(server.url, data=b"nonsense", method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 400
    finally:
        server.close()


class Short(FeatureScorer):
    def score_many(self, items: object) -> list[Decided]:
        return []


def test_answer_of_the_wrong_length_is_refused() -> None:
    server = ScoringServer(Short())
    try:
        with pytest.raises(ServiceRefused, match="expected 7 results"):
            HttpScorer(HttpScorerSettings(url=server.url)).score_many(items())
    finally:
        server.close()


def test_log_lines_are_json_with_their_fields() -> None:
    stream = io.StringIO()
    set_up_logging("info", "json", stream)
    log("dead_letter", level="warning", video_id="v1", path=Path("x"))
    log("unseen", level="debug")
    logging.getLogger("tidegate.platform").handlers[:] = []
    (line,) = stream.getvalue().splitlines()
    record = msgspec.json.decode(line)
    assert (record["event"], record["level"], record["video_id"]) == ("dead_letter", "warning", "v1")


def test_budget_and_qps_ratio_are_of_the_last_batches() -> None:
    measures = PlatformMeasures(budget_seconds_per_thousand=50.0)
    measures.models({"base": 100, "large": 4}, {"base": 1.0, "large": 4.0})
    lines = measures.text().decode()
    assert "tidegate_qps_ratio 0.04" in lines
    assert "tidegate_budget_used_ratio 1.0" in lines
