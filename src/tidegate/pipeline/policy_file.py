"""Reads and checks policy files (TOML). See ``tidegate.pipeline.policy`` for what they mean.

Enters: a path (or text). Leaves: a ``Policy``, or a ``ConfigError`` that names the file, the key, what was expected
and what came, with the nearest known word when a key is misspelt.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from importlib import resources
from pathlib import Path
from typing import Any, cast

from tidegate.errors import ConfigError
from tidegate.pipeline.policy import (
    ACTIONS,
    CLAUSE_SETTINGS,
    ROUTING_SETTINGS,
    RULES,
    THRESHOLDS,
    Action,
    Clause,
    Policy,
    RegionOverride,
    Routing,
    RuleName,
    Threshold,
)
from tidegate.pipeline.policy_certificate import CertifiedThreshold, read_certified_threshold

__all__ = ["MAX_POLICY_BYTES", "default_policy", "parse_policy", "read_policy"]

MAX_POLICY_BYTES = 2**20
_REGION = re.compile(r"[A-Z]{2}")
_GROUP = re.compile(r"[A-Z][A-Z0-9_-]*")


def default_policy() -> Policy:
    """The policy that ships with Tidegate."""
    text = resources.files("tidegate.pipeline").joinpath("policies", "default.toml").read_text(encoding="utf-8")
    return parse_policy(text, origin="the default policy")


def read_policy(path: str | Path) -> Policy:
    """The policy in a file."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_POLICY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable policy file, got {error.strerror}") from error
    if len(content) > MAX_POLICY_BYTES:
        raise ConfigError(f"{path}: expected at most {MAX_POLICY_BYTES} bytes of policy, got more")
    try:
        return parse_policy(content.decode("utf-8"), origin=str(path), folder=Path(path).parent)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, got {error}") from error


def parse_policy(text: str, *, origin: str = "policy", folder: Path = Path()) -> Policy:
    """The policy in a text; ``origin`` is what errors call it, certificates lie relative to ``folder``."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{origin}: expected TOML, got {error}") from error
    table = _Table(document, origin, "", folder)
    head = table.table("policy")
    name, version = head.text("name", required=True), head.text("version", required=True)
    head.finish()
    clauses = tuple(_clause(entry) for entry in table.tables("clause"))
    _unique([clause.id for clause in clauses], f"{origin}: clause.id")
    if not clauses:
        raise ConfigError(f"{origin}: clause: expected at least one [[clause]], got none")
    routing = _routing(table.table("cascade"))
    groups = _groups(table.table("groups"))
    regions = _regions(table.table("region"), clauses, routing, groups)
    table.finish()
    return Policy(
        name=cast(str, name), version=cast(str, version), clauses=clauses, routing=routing, groups=groups,
        regions=regions,
    )


class _Table:
    """A TOML table from which keys are taken one by one; what is left at the end is an unknown key."""

    def __init__(self, content: Mapping[str, Any], origin: str, path: str, folder: Path = Path()) -> None:
        self._left, self._origin, self._path, self._folder = dict(content), origin, path, folder
        self._asked: set[str] = set()

    def error(self, key: str, expected: str, came: object) -> ConfigError:
        return ConfigError(f"{self._origin}: {self._path}{key}: expected {expected}, got {came!r}")

    def names(self) -> tuple[str, ...]:
        return tuple(self._left)

    def take(self, key: str) -> Any:
        self._asked.add(key)
        return self._left.pop(key, None)

    def table(self, key: str) -> _Table:
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "a table", value)
        return _Table(value or {}, self._origin, f"{self._path}{key}.", self._folder)

    def tables(self, key: str) -> list[_Table]:
        values = self.take(key)
        if values is not None and not (isinstance(values, list) and all(isinstance(value, dict) for value in values)):
            raise self.error(key, f"tables such as [[{key}]]", values)
        return [_Table(value, self._origin, f"{self._path}{key}[{n}].") for n, value in enumerate(values or ())]

    def text(self, key: str, *, required: bool = False) -> str | None:
        value = self.take(key)
        if value is None and not required:
            return None
        if value is None:
            misspelt = difflib.get_close_matches(key, self._left, n=1)
            found = f"none (did you mean {key} by {misspelt[0]}?)" if misspelt else "none"
            raise ConfigError(f"{self._origin}: {self._path}{key}: expected a text, got {found}")
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "a text that is not empty", value)
        return value.strip()

    def word(self, key: str, words: tuple[str, ...]) -> str | None:
        value = self.take(key)
        if value is not None and value not in words:
            raise self.error(key, f"one of {', '.join(words)}{_nearest(str(value), words)}", value)
        return None if value is None else str(value)

    def number(self, key: str, low: float, high: float) -> float | None:
        value = self.take(key)
        return None if value is None else self._number(key, value, low, high)

    def _number(self, key: str, value: object, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(key, f"a number in [{low:g}, {high:g}]", value)
        return float(value)

    def whole_number(self, key: str) -> int | None:
        value = self.take(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise self.error(key, "a whole number >= 0", value)
        return value

    def threshold(self, key: str) -> Threshold:
        value = self.take(key)
        if isinstance(value, dict):
            return {stage: self._number(f"{key}.{stage}", score, 0, 1) for stage, score in value.items()}
        return None if value is None else self._number(key, value, 0, 1)

    def certificate(self, key: str) -> CertifiedThreshold | None:
        path = self.text(key)
        try:
            return None if path is None else read_certified_threshold(self._folder / Path(path).expanduser())
        except ConfigError as error:
            raise ConfigError(f"{self._origin}: {self._path}{key}: {error}") from error

    def day(self, key: str) -> date | None:
        value = self.take(key)
        if value is not None and (not isinstance(value, date) or isinstance(value, datetime)):
            raise self.error(key, "a date such as 2026-01-31 (no quotes, no time)", value)
        return value

    def finish(self) -> None:
        for key in self._left:
            known = tuple(sorted(self._asked))
            raise ConfigError(
                f"{self._origin}: {self._path}{key}: unknown key{_nearest(key, known)}; known here: {', '.join(known)}"
            )


def _nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _unique(values: list[str], what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{what}: expected different values, got {value!r} twice")


def _settings(table: _Table, *, among: frozenset[str]) -> dict[str, Any]:
    """The settings that a table gives, each checked; absent ones are absent."""
    readers = {
        "title": table.text, "text": table.text,
        "action": lambda key: table.word(key, ACTIONS),
        "remove_at": table.threshold, "ignore_from": table.threshold,
        "effective_from": table.day, "effective_until": table.day,
        "rule": lambda key: table.word(key, RULES),
        "p_base": lambda key: table.number(key, 0, 100),
        "tau": lambda key: table.number(key, 0, 1),
        "certificate": table.certificate,
        "max_entropy": lambda key: table.number(key, 0, 1),
        "view_limit": table.whole_number,
    }
    values = {key: readers[key](key) for key in sorted(among)}
    return {key: value for key, value in values.items() if value is not None}


def _clause(table: _Table) -> Clause:
    clause_id = cast(str, table.text("id", required=True))
    issue = cast(str, table.text("issue", required=True))
    settings = _settings(table, among=CLAUSE_SETTINGS)
    table.finish()
    if "title" not in settings:
        raise table.error("title", "a text that is not empty", None)
    clause = Clause(id=clause_id, issue=issue, **_typed(settings))
    _coherent(clause, table)
    return clause


def _typed(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | ({"action": cast(Action, settings["action"])} if "action" in settings else {})


def _coherent(clause: Clause, table: _Table) -> None:
    if clause.effective_from and clause.effective_until and clause.effective_until < clause.effective_from:
        raise table.error("effective_until", f"a day not before {clause.effective_from}", clause.effective_until)
    low, high = clause.ignore_from, clause.remove_at
    if isinstance(low, float) and isinstance(high, float) and low > high:
        raise table.error("ignore_from", f"at most remove_at = {high:g}", low)


def _routing(table: _Table) -> Routing:
    settings = _settings(table, among=ROUTING_SETTINGS)
    table.finish()
    if "rule" in settings:
        settings["rule"] = cast(RuleName, settings["rule"])
    return _coherent_routing(Routing(**settings), table)


def _coherent_routing(routing: Routing, table: _Table) -> Routing:
    given = [key for key in THRESHOLDS if getattr(routing, key) is not None]
    if len(given) > 1:
        raise table.error(given[-1], f"either {' or '.join(given)}, not both", getattr(routing, given[-1]))
    if routing.certificate is not None and routing.rule != "precision":
        raise table.error("rule", "precision, which a certificate is for", routing.rule)
    return routing


def _groups(table: _Table) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for name in table.names():
        members = table.take(name)
        if not _GROUP.fullmatch(name) or name == "DEFAULT":
            raise table.error(name, "a group's name in upper case such as EU", name)
        if not isinstance(members, list) or not all(isinstance(m, str) and _REGION.fullmatch(m) for m in members):
            raise table.error(name, "a list of ISO 3166-1 alpha-2 regions", members)
        groups[name] = tuple(members)
    return groups


def _regions(
    table: _Table, clauses: tuple[Clause, ...], routing: Routing, groups: Mapping[str, tuple[str, ...]]
) -> dict[str, RegionOverride]:
    regions: dict[str, RegionOverride] = {}
    for name in table.names():
        if name != "default" and name not in groups and not _REGION.fullmatch(name):
            known = ("default", *groups)
            raise table.error(name, f"default, a group or an ISO 3166-1 alpha-2 region{_nearest(name, known)}", name)
        regions[name] = _override(table.table(name), clauses)
    policy = Policy(name="?", version="?", clauses=clauses, routing=routing, groups=groups, regions=regions)
    _check_groups(policy, table)
    _check_resolved(policy, table)
    return regions


def _override(table: _Table, clauses: tuple[Clause, ...]) -> RegionOverride:
    by_clause: dict[str, Mapping[str, Any]] = {}
    clause_tables = table.table("clause")
    ids = tuple(clause.id for clause in clauses)
    for clause_id in clause_tables.names():
        if clause_id not in ids:
            raise clause_tables.error(clause_id, f"the id of a [[clause]]{_nearest(clause_id, ids)}", clause_id)
        settings = clause_tables.table(clause_id)
        by_clause[clause_id] = _typed(_settings(settings, among=CLAUSE_SETTINGS))
        settings.finish()
    cascade = table.table("cascade")
    routing = _settings(cascade, among=ROUTING_SETTINGS)
    cascade.finish()
    table.finish()
    return RegionOverride(clauses=by_clause, routing=routing)


def _check_groups(policy: Policy, table: _Table) -> None:
    """A country whose groups disagree has no defined policy, unless it says itself."""
    for region in sorted({member for members in policy.groups.values() for member in members}):
        own = _flat(policy.regions.get(region))
        claims: dict[str, tuple[str, Any]] = {}
        for group in policy.chain(region)[1:-1]:
            for key, value in _flat(policy.regions.get(group)).items():
                other, other_value = claims.setdefault(key, (group, value))
                if other_value != value and key not in own:
                    expected = f"the value that {other} gives {region}, {other_value!r}"
                    raise table.error(f"{group}.{key}", expected, value)


def _flat(override: RegionOverride | None) -> dict[str, Any]:
    if override is None:
        return {}
    flat = {f"cascade.{key}": value for key, value in override.routing.items()}
    for clause_id, settings in override.clauses.items():
        flat |= {f"clause.{clause_id}.{key}": value for key, value in settings.items()}
    return flat


def _check_resolved(policy: Policy, table: _Table) -> None:
    for region in policy.regions:
        members = policy.groups.get(region, (region,))
        for member in members:
            resolved = policy.resolve(None if member == "default" else member)
            for clause in resolved.clauses:
                _coherent(clause, _Table({}, table._origin, f"region.{member}.clause.{clause.id}."))
            _coherent_routing(resolved.routing, _Table({}, table._origin, f"region.{member}.cascade."))

