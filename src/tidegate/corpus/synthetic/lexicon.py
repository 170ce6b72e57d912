"""The phrases of the synthetic corpus, by language: what violates, what only looks so, and what is harmless.

Enters: ``lexicon.toml`` beside this file. Leaves: one frozen ``Language`` per ISO 639-1 code. Lists are parallel over
languages (line k says the same everywhere), so that a language can be swapped with all else equal.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["CLAUSE_OF_THEME", "Language", "lexicon"]

CLAUSE_OF_THEME = {"threat": "threats", "goods": "illegal_goods"}
"""Theme of a violating phrase to the policy clause that it breaks."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """One language of the lexicon."""

    code: str
    """ISO 639-1."""
    script: str
    """ISO 15924: ``Latn``, ``Arab``, ``Deva``, ..."""
    voice: str
    """espeak-ng voice."""
    threat: tuple[str, ...]
    threat_ok: tuple[str, ...]
    """Same words as ``threat`` in a harmless sentence (news, negation)."""
    goods: tuple[str, ...]
    goods_ok: tuple[str, ...]
    offer: tuple[str, ...]
    """Harmless alone; breaks ``illegal_goods`` together with a picture of pills, powder or cash."""
    benign: tuple[str, ...]
    news: str

    def phrases(self, theme: str) -> tuple[str, ...]:
        """The phrases of one theme: ``threat``, ``threat_ok``, ``goods``, ``goods_ok``, ``offer``, ``benign``."""
        found: tuple[str, ...] = getattr(self, theme)
        return found


@cache
def lexicon() -> dict[str, Language]:
    """All languages by code."""
    tables = tomllib.loads(files(__package__).joinpath("lexicon.toml").read_text(encoding="utf-8"))
    return {
        code: Language(code=code, **{key: _frozen(value) for key, value in table.items()})
        for code, table in tables.items()
    }


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
