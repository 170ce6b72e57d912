"""Statements of reasons (Digital Services Act, Article 17) for the EU transparency database.

Enters: removals from the audit trail, and a file in which the platform's lawyers say, for each clause, which ground and
category it is (no default: that is a legal judgement). Leaves: payloads for the database's ``/api/v1/statements``
(at most ``MAX_STATEMENTS`` each). Field names, codes, length limits and ranges of dates are those of the database's API
documentation (https://transparency.dsa.ec.europa.eu/page/api-documentation, schema in force since July 2025) and of the
validation rules in its published source code. Nothing personal is
exported: no creator, no title, no location; the video is named by a one-way ``puid``.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidegate.errors import ConfigError
from tidegate.platform.history import Chapter
from tidegate.platform.settings import Table

__all__ = ["CATEGORIES", "EEA", "MAX_STATEMENTS", "ClauseGround", "payloads", "read_grounds", "statement"]

MAX_STATEMENTS = 100
EEA = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IS IT LI LT LU LV MT NL NO PL PT RO SE SI SK".split()  # noqa: SIM905
)
ILLEGAL, INCOMPATIBLE = "DECISION_GROUND_ILLEGAL_CONTENT", "DECISION_GROUND_INCOMPATIBLE_CONTENT"
CATEGORIES = frozenset({
    "STATEMENT_CATEGORY_ANIMAL_WELFARE",
    "STATEMENT_CATEGORY_CONSUMER_INFORMATION",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN",
    "STATEMENT_CATEGORY_DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
    "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
    "STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE",
    "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
    "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY",
    "STATEMENT_CATEGORY_SCAMS_AND_FRAUD",
    "STATEMENT_CATEGORY_SELF_HARM",
    "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "STATEMENT_CATEGORY_VIOLENCE",
})
_GROUND_CHARS, _EXPLANATION_CHARS, _FACTS_CHARS, _URL_CHARS = 500, 2000, 5000, 500
_CONTENT_DAYS = ("2000-01-01", "2038-01-01")
_APPLICATION_DAYS = ("2020-01-01", "2038-01-01")
LANGUAGES = frozenset(
    "AA AB AE AF AK AM AN AR AS AV AY AZ BA BE BG BI BM BN BO BR BS CA CE CH CO CR CS CU CV CY DA DE DV DZ EE EL EN "  # noqa: SIM905
    "EO ES ET EU FA FF FI FJ FO FR FY GA GD GL GN GU GV HA HE HI HO HR HT HU HY HZ IA ID IE IG II IK IO IS IT IU JA JV "
    "KA KG KI KJ KK KL KM KN KO KR KS KU KV KW KY LA LB LG LI LN LO LT LU LV MG MH MI MK ML MN MR MS MT MY NA NB ND NE "
    "NG NL NN NO NR NV NY OC OJ OM OR OS PA PI PL PS PT QU RM RN RO RU RW SA SC SD SE SG SI SK SL SM SN SO SQ SR SS ST "
    "SU SV SW TA TE TG TH TI TK TL TN TO TR TS TT TW TY UG UK UR UZ VE VI VO WA WO XH YI YO ZA ZH ZU".split()
)
"""ISO 639-1; a language that is none of them is left out, since the database takes no other."""


@dataclass(frozen=True, kw_only=True)
class ClauseGround:
    """What a clause is in law."""

    category: str
    """One of ``CATEGORIES``."""
    decision_ground: str
    """``DECISION_GROUND_ILLEGAL_CONTENT`` or ``DECISION_GROUND_INCOMPATIBLE_CONTENT`` (with the terms)."""
    ground: str
    """The law, or the clause of the terms, relied on."""
    explanation: str
    """Why content under this clause is illegal or incompatible."""
    reference_url: str | None = None
    """Where the law or the terms can be read."""

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"category: expected one of {', '.join(sorted(CATEGORIES))}, got {self.category!r}")
        if self.decision_ground not in {ILLEGAL, INCOMPATIBLE}:
            raise ValueError(f"decision_ground: expected {ILLEGAL} or {INCOMPATIBLE}, got {self.decision_ground!r}")
        if not 0 < len(self.ground) <= _GROUND_CHARS or not 0 < len(self.explanation) <= _EXPLANATION_CHARS:
            raise ValueError("expected a ground of 1 to 500 and an explanation of 1 to 2000 characters")
        url = self.reference_url
        if url is not None and (not url.startswith(("https://", "http://")) or len(url) > _URL_CHARS):
            raise ValueError(f"reference_url: expected an http(s) URL of at most {_URL_CHARS} characters, got {url!r}")


def read_grounds(path: Path) -> dict[str, ClauseGround]:
    """The grounds of clauses by clause id, from a file with one table ``[clause.ID]`` each."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got {error}") from error
    top = Table(document, path)
    top.only(("clause",))
    clauses = top.table("clause")
    return {name: clauses.table(name).fill(ClauseGround) for name in document.get("clause", {})}


def statement(chapter: Chapter, grounds: Mapping[str, ClauseGround]) -> dict[str, Any] | None:
    """The statement of one removal; None for what is no removal in the EEA."""
    entry = chapter.entry
    event, verdict, decision = entry.event, entry.verdict, entry.decision
    if entry.status != "removed" or event is None or verdict is None or decision is None or event.region not in EEA:
        return None
    clause = verdict.clause or ""
    if clause not in grounds:
        raise ConfigError(f"expected a ground for clause {clause!r}, got {sorted(grounds)}")
    if event.uploaded_at is None:
        raise ConfigError(f"expected uploaded_at of {event.video_id!r}: the database requires content_date, got none")
    ground = grounds[clause]
    prefix = "illegal_content" if ground.decision_ground == ILLEGAL else "incompatible_content"
    name = f"{prefix}_legal_ground" if ground.decision_ground == ILLEGAL else f"{prefix}_ground"
    record: dict[str, Any] = {
        "decision_visibility": ["DECISION_VISIBILITY_CONTENT_REMOVED"],
        "decision_ground": ground.decision_ground,
        name: ground.ground,
        f"{prefix}_explanation": ground.explanation,
        "content_type": ["CONTENT_TYPE_VIDEO"],
        "category": ground.category,
        "territorial_scope": [event.region],
        "content_date": _day(event.uploaded_at, _CONTENT_DAYS, "content_date"),
        "application_date": _day(entry.at, _APPLICATION_DAYS, "application_date"),
        "decision_facts": _facts(chapter)[:_FACTS_CHARS],
        "source_type": "SOURCE_TYPE_OTHER_NOTIFICATION" if event.kind == "report" else "SOURCE_VOLUNTARY",
        "automated_detection": "No" if event.kind == "report" else "Yes",
        "automated_decision": "AUTOMATED_DECISION_FULLY",
        "puid": hashlib.blake2b(f"{event.video_id}:{event.version}".encode(), digest_size=16).hexdigest(),
    }
    if ground.reference_url is not None:
        record["decision_ground_reference_url"] = ground.reference_url
    if event.language is not None and event.language.upper() in LANGUAGES:
        record["content_language"] = event.language.upper()
    return record


def payloads(chapters: Iterable[Chapter], grounds: Mapping[str, ClauseGround]) -> Iterator[dict[str, Any]]:
    """Bodies for ``POST /api/v1/statements``; one statement for each removed version, the first time it was removed."""
    block: list[dict[str, Any]] = []
    seen: set[str] = set()
    for chapter in chapters:
        record = statement(chapter, grounds)
        if record is None or record["puid"] in seen:
            continue
        seen.add(record["puid"])
        block.append(record)
        if len(block) == MAX_STATEMENTS:
            yield {"statements": block}
            block = []
    if block:
        yield {"statements": block}


def _facts(chapter: Chapter) -> str:
    entry = chapter.entry
    assert entry.decision is not None
    policy = chapter.setup.get("policy", {})
    by = ", ".join(f"{score.stage} model {score.model}: {score.value:.3f}" for score in entry.scores)
    match = "" if entry.known is None else " The video matches known content of a bank of violating material."
    return (
        f"{entry.reason} Policy {policy.get('name')}, version {policy.get('version')}. The video was examined by "
        f"automated means{': ' + by if by else ''}. {entry.decision.reason}.{match}"
    )


def _day(seconds: float, between: tuple[str, str], name: str) -> str:
    day = datetime.fromtimestamp(seconds, UTC).date().isoformat()
    if not between[0] <= day <= between[1]:
        raise ConfigError(f"{name}: expected a day from {between[0]} to {between[1]}, which the database takes: {day}")
    return day
