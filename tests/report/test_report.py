"""The report shows what is stored, escapes everything, and reaches nothing outside itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tidegate.report import write_report
from tidegate.report.waveform import draw_waveform
from tidegate.types import Span

HOSTILE = '<script>alert("x")</script><img src=https://example.com/a.png onerror=alert(1)>'


def outcome(index: int, status: str = "removed", **changes: Any) -> dict[str, Any]:
    failed = status == "failed"
    decision = {
        "issue": "icd", "score": 0.9, "flagged": True, "threshold": 0.6, "stage": "large", "escalated": True,
        "route": "last_stage", "reason": "0.90 is at or above 0.60", "guarantee": None, "policy": "default",
        "policy_version": "1", "region": "DE", "clause": "weapons", "cost_seconds": 0.1,
    }  # fmt: skip
    scores = [
        {"value": value, "stage": stage, "issue": "icd", "model": "m@1", "missing": [], "cost_seconds": 0.01}
        for stage, value in (("base", 0.42), ("large", 0.9))
    ]
    record = {
        "video_id": f"v{index}", "path": f"/videos/{index}.mp4", "status": status, "reason": "because",
        "error": "corrupt_media" if failed else None, "decision": None if failed else decision,
        "scores": [] if failed else scores, "observations": [],
        "context": {"region": "DE", "language": None, "views": 5, "uploaded_at": None, "creator": None},
        "duration_seconds": None if failed else 4.0, "frame_pts_seconds": [] if failed else [0.5, 1.5],
        "cost_seconds": 0.2, "score": None if failed else 0.9,
    }  # fmt: skip
    return {**record, **changes}


class Tags(HTMLParser):
    """Collects start tags and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(tmp_path: Path, outcomes: list[dict[str, Any]], **options: Any) -> str:
    return write_report(outcomes, tmp_path, tmp_path / "report.html", **options).read_text(encoding="utf-8")


def test_every_status_is_counted_and_failed_is_named_as_undecided(tmp_path: Path) -> None:
    statuses = ["removed", "remained", "remained", "ignored", "failed"]
    parsed = Tags(page(tmp_path, [outcome(i, status) for i, status in enumerate(statuses)]))
    assert [a["data-status"] for a in parsed.all("article")] == ["removed", "failed", "ignored", "remained", "remained"]
    assert "not a harmless one" in parsed.text
    assert "100.0 %" in parsed.text  # 4 of 4 decided videos reached the large stage


def test_hostile_texts_and_names_stay_text(tmp_path: Path) -> None:
    texts = [{"kind": "title", "text": HOSTILE, "language": None}]
    hostile = outcome(
        0,
        path=f"/videos/{HOSTILE}",
        reason=HOSTILE,
        observations=[{"kind": "texts", "value": texts}, {"kind": "warning", "value": HOSTILE}],
    )
    parsed = Tags(page(tmp_path, [hostile], title=HOSTILE, notice=HOSTILE))
    assert len(parsed.all("script")) == 1  # the page's own
    assert not parsed.all("img")
    assert not any("onerror" in attributes for _tag, attributes in parsed.tags)
    assert parsed.text.count('alert("x")') >= 5


def test_page_is_self_contained_and_says_so_to_the_browser(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.jpg")
    frames = [{"pts_seconds": 0.5, "jpeg": "a.jpg"}, {"pts_seconds": 1.5, "jpeg": None}]
    text = page(tmp_path, [outcome(0, observations=[{"kind": "frames", "value": frames}])])
    parsed = Tags(text)
    assert [image["src"][:23] for image in parsed.all("img")] == ["data:image/jpeg;base64,"]  # type: ignore[index]
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"""(src|href)=["']?https?:""", text)
    assert "style=" not in text  # would be refused by the policy


def test_pictures_outside_the_evidence_folder_or_not_jpeg_are_not_embedded(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    Image.new("RGB", (8, 6), "red").save(tmp_path / "secret.jpg")
    (evidence / "b.jpg").write_text("<svg onload=alert(1)>")
    frames = [{"pts_seconds": 0.5, "jpeg": name} for name in ("../secret.jpg", str(tmp_path / "secret.jpg"), "b.jpg")]
    record = outcome(0, observations=[{"kind": "frames", "value": frames}])
    text = write_report([record], evidence, tmp_path / "r.html").read_text()
    assert not Tags(text).all("img")


def test_only_the_most_interesting_cards_are_kept_and_the_rest_is_counted(tmp_path: Path) -> None:
    outcomes = [outcome(i, "remained", score=i / 50) for i in range(50)] + [outcome(99, "removed")]
    parsed = Tags(page(tmp_path, outcomes, max_cards=3, max_cards_with_pictures=1))
    assert len(parsed.all("article")) == 3
    assert parsed.all("article")[0]["data-status"] == "removed"
    assert "The 3 most interesting of 51 videos" in parsed.text


def test_waveform_places_stretches_and_frames_on_one_axis() -> None:
    drawing = draw_waveform([[-0.25, 0.25]] * 10, Span(10, 20), speech=[Span(12, 15)], instants_seconds=[15.0])
    assert (drawing.speech[0].x, drawing.speech[0].width) == (120.0, 180.0)
    assert drawing.frame_x == (300.0,)
    assert drawing.path.count(",") == 20


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a Chromium to run the page's script")
def test_browser_runs_the_script_under_the_policy_and_filters(tmp_path: Path) -> None:
    page(tmp_path, [outcome(0), outcome(1, "failed")])
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    result = subprocess.run(
        ["chromium", *flags, "--dump-dom", f"file://{tmp_path}/report.html"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "2 of 2 shown" in result.stdout
