"""Write the report: one HTML file that needs nothing else and can reach nothing else.

Enters: outcome records (any iterable, read once) and the folder of stored evidence. Leaves: the page. Memory is
bounded: only the ``max_cards`` most interesting records are kept, and the page says how many it left out. Texts are
escaped by Jinja's autoescaping; a content security policy forbids every outside load and every script but the page's.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tidegate.report.card import Card, interest, make_card
from tidegate.report.summary import Summary

__all__ = ["write_report"]


def write_report(
    outcomes: Iterable[Mapping[str, Any]],
    evidence_dir: Path | None,
    out_html: Path,
    *,
    title: str = "Tidegate scan",
    notice: str | None = None,
    max_cards: int = 1000,
    max_cards_with_pictures: int = 200,
) -> Path:
    """Write the report of ``outcomes`` to ``out_html`` (atomically) and return that path.

    ``notice`` is shown at the top (what the models are and are not good for). Raises OSError if the file cannot
    be written.
    """
    summary, kept = _keep_most_interesting(outcomes, max_cards)
    template = _environment().get_template("report.html.j2")
    script, style = _asset("report.js"), _asset("report.css")
    stream = template.stream(
        title=title,
        notice=notice,
        summary=summary,
        cards=_cards(kept, evidence_dir, max_cards_with_pictures),
        num_cards=len(kept),
        max_cards_with_pictures=max_cards_with_pictures,
        script=Markup(script),  # noqa: S704 - our own file
        style=Markup(style),  # noqa: S704 - our own file
        script_hash=_csp_hash(script),
        style_hash=_csp_hash(style),
        written_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    partial = out_html.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        stream.enable_buffering(64)
        file.writelines(stream)
    os.replace(partial, out_html)
    return out_html


def _keep_most_interesting(
    outcomes: Iterable[Mapping[str, Any]], max_cards: int
) -> tuple[Summary, list[Mapping[str, Any]]]:
    summary, order = Summary(), count()
    heap: list[tuple[tuple[float, ...], int, Mapping[str, Any]]] = []
    for outcome in outcomes:
        summary.add(outcome)
        entry = (tuple(-part for part in interest(outcome)), -next(order), outcome)
        if len(heap) < max_cards:
            heapq.heappush(heap, entry)
        elif max_cards:
            heapq.heappushpop(heap, entry)
    return summary, [outcome for _key, _order, outcome in sorted(heap, key=lambda entry: entry[:2], reverse=True)]


def _cards(kept: list[Mapping[str, Any]], evidence_dir: Path | None, with_pictures: int) -> Iterator[Card]:
    for index, outcome in enumerate(kept):
        yield make_card(outcome, evidence_dir, embed_pictures=index < with_pictures)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tidegate.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["clock"] = _clock
    return environment


def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _clock(seconds: float | None) -> str:
    """Seconds as m:ss.t (or h:mm:ss.t)."""
    if seconds is None:
        return "–"
    tenths = round(seconds * 10)
    minutes, rest = divmod(abs(tenths), 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes}:{rest / 10:04.1f}" if not hours else f"{hours}:{minutes:02d}:{rest / 10:04.1f}"
    return "-" + text if tenths < 0 else text
