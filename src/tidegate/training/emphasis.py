"""Emphasis: some training videos are seen several times an epoch.

Enters: training entries and what to emphasise: listed ids, a value of a metadata column, or violating videos that the
checkpoint to start from scores below its threshold. Leaves: numbers of the examples, those that are emphasised
repeated; each repetition is augmented on its own. Ids must be training videos: what a model is measured on must not be
what it is trained on, so an id of another split is refused and not quietly left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry
from tidegate.errors import ConfigError, ManifestError

__all__ = ["COLUMNS", "EmphasisConfig", "emphasised_ids", "ids_in", "ids_where", "repeated"]

COLUMNS = ("region", "language", "creator", "source_id")
"""Columns of a manifest that a value can be asked of."""


@dataclass(frozen=True, kw_only=True)
class EmphasisConfig:
    """What is seen more often. Several criteria add up to one set; each of its videos is seen ``times`` times."""

    times: int = 3
    """How often an emphasised video is seen in an epoch; 1: as the others."""
    ids: Path | None = None
    """File of video ids, one a line; None: none are listed."""
    where: tuple[str, ...] = ()
    """``column=value``: all training videos with that metadata, column among ``COLUMNS``."""
    missed_at: str | None = None
    """Violating videos that the starting checkpoint scores below its escalation threshold of this base precision, in
    percent, as ``thresholds.json`` has it; None: not asked."""

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ConfigError(f"expected an emphasis of at least 1, got {self.times}")
        for said in self.where:
            column, equals, value = said.partition("=")
            if not equals or not value or column not in COLUMNS:
                raise ConfigError(f"expected column=value with a column among {', '.join(COLUMNS)}, got {said!r}")

    @property
    def asked(self) -> bool:
        """Whether anything is emphasised."""
        return self.ids is not None or bool(self.where) or self.missed_at is not None


def ids_in(path: Path) -> tuple[str, ...]:
    """Video ids of a file, one a line; empty lines are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: expected video ids, one a line, found none that can be read: {error}") from error
    ids = tuple(line.strip() for line in lines if line.strip())
    if not ids:
        raise ManifestError(f"{path}: expected video ids, one a line, found none")
    return ids


def ids_where(entries: Sequence[Entry], said: str) -> set[str]:
    """Ids of the entries with ``column=value``."""
    column, _, value = said.partition("=")
    found = {entry.video_id for entry in entries if getattr(entry, column) == value}
    if not found:
        known = sorted({str(getattr(entry, column)) for entry in entries})
        raise ManifestError(f"expected training videos with {said}, found none; the column has {', '.join(known[:10])}")
    return found


def emphasised_ids(entries: Sequence[Entry], config: EmphasisConfig) -> set[str]:
    """Ids of training entries that are listed or have the metadata that was asked for."""
    chosen: set[str] = set()
    if config.ids is not None:
        chosen |= _listed(config.ids, {entry.video_id for entry in entries})
    for said in config.where:
        chosen |= ids_where(entries, said)
    return chosen


def _listed(path: Path, known: set[str]) -> set[str]:
    ids = ids_in(path)
    other = [video_id for video_id in ids if video_id not in known]
    if other:
        raise ManifestError(
            f"{path}: expected ids of labelled training videos, found {len(other)} of {len(ids)} that are not: "
            f"{', '.join(other[:3])}"
        )
    return set(ids)


def repeated(video_ids: Sequence[str], chosen: set[str], times: int) -> npt.NDArray[np.int64]:
    """Numbers of all examples, then those that are emphasised, as often again as it takes."""
    again = [number for number, video_id in enumerate(video_ids) if video_id in chosen]
    return np.asarray([*range(len(video_ids)), *again * (times - 1)], dtype=np.int64)
