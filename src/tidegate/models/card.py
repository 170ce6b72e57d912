"""``Card``: what a checkpoint is, what it was trained on, and what must be said wherever its verdicts are shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidegate.errors import CheckpointError

__all__ = ["Card"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """The model card. ``card.json`` keeps it for machines, ``README.md`` for people."""

    name: str
    """Short name, first part of ``Score.model``."""
    issue: str
    more_issues: tuple[str, ...] = ()
    """Issues that the checkpoint scores besides ``issue``."""
    notice: str | None = None
    """One sentence that every view of this model's verdicts must show; None: nothing to warn of."""
    trained_on: str | None = None
    """Name and content hash of the manifest; None: not trained by Tidegate."""
    seed: int | None = None
    command: str | None = None
    """The command that made the checkpoint."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """All settings of the recipe."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Card:
        """Inverse of ``to_dict``."""
        fields = {item.name for item in dataclasses.fields(cls)}
        if not {"name", "issue"} <= set(values) <= fields:
            raise CheckpointError(f"card.json: expected keys {sorted(fields)}, found {sorted(values)}")
        lists = {name: tuple(values.get(name, ())) for name in ("notes", "more_issues")}
        return cls(**{**values, **lists})

    def to_markdown(self) -> str:
        """The card as a page."""
        lines = [f"# {self.name}", ""]
        if self.notice:
            lines += [f"> {self.notice}", ""]
        issues = ", ".join((self.issue, *self.more_issues))
        facts = {"issue": issues, "trained on": self.trained_on, "seed": self.seed, "command": self.command}
        lines += [f"- {name}: `{value}`" for name, value in facts.items() if value is not None]
        lines += [f"- {note}" for note in self.notes]
        for title, table in (("Metrics", self.metrics), ("Recipe", self.recipe)):
            if table:
                lines += ["", f"## {title}", "", "```json", json.dumps(table, indent=1, ensure_ascii=False), "```"]
        return "\n".join([*lines, ""])
