"""Resume: whether an earlier run has done an item already.

Enters: a video's id and the fingerprint of its content now. Leaves: the stored outcome if it rests on the same
content and the same setup (policy and models), else None. A stored failure counts as done unless failures are to be
tried again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate.pipeline.index import Stored, outcome_from_json
from tidegate.pipeline.policy import Policy
from tidegate.pipeline.routing import CalibratedStage
from tidegate.types import Outcome

__all__ = ["Resume", "setup_hash"]


@dataclass(frozen=True, kw_only=True)
class Resume:
    """The memory of earlier runs; without ``stored`` nothing is ever done already."""

    stored: Callable[[str], Stored | None] | None = None
    """Looks a video up in the index."""
    setup: str = ""
    """``setup_hash`` of this run."""
    retry_failed: bool = False

    def __call__(self, video_id: str, fingerprint: str) -> Outcome | None:
        found = None if self.stored is None else self.stored(video_id)
        if found is None or (found.fingerprint, found.setup) != (fingerprint, self.setup):
            return None
        if found.status == "failed" and self.retry_failed:
            return None
        return outcome_from_json(found.outcome_json)


def setup_hash(policy: Policy, stages: Sequence[CalibratedStage], *, reads_on_screen_text: bool) -> str:
    """What an outcome rests on besides its video: policy, models, their thresholds, what is read."""
    parts = [
        policy.policy_hash,
        reads_on_screen_text,
        [
            (entry.stage.name, entry.identity, entry.flag_threshold, entry.tau, sorted(entry.taus.items()),
             entry.max_entropy, repr(entry.stage.request))
            for entry in stages
        ],
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
