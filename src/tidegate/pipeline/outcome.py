"""The record of one video's end: from a decision and the policy, or from a failure.

Enters: a piece of work with its decision (or failure). Leaves: an ``Outcome`` with all its evidence. A failure
keeps what was found before it, and has no decision: it is neither harmless nor harmful.
"""

from __future__ import annotations

from collections.abc import Iterator

from tidegate.pipeline.boundary import Failure
from tidegate.pipeline.evidence import EvidenceStore, seen
from tidegate.pipeline.filter import Filter
from tidegate.pipeline.flow import Work
from tidegate.types import Decision, Observation, Outcome

__all__ = ["failed", "judged"]

_NO_REGION = "region unknown: the policy's defaults apply"


def judged(work: Work, decision: Decision, policy_filter: Filter, store: EvidenceStore | None) -> Outcome:
    """The outcome of an item that the cascade decided."""
    verdict = policy_filter(decision, work.item.context)
    if work.retrieved is None:
        raise ValueError(f"expected the deciding stage's clip of {work.item.video_id}, got none")
    clip = work.retrieved.clip
    frames = () if clip.frames is None else clip.frames.pts_seconds
    return Outcome(
        video_id=work.item.video_id,
        path=work.item.printable_path,
        status=verdict.status,
        reason=verdict.reason,
        decision=verdict.decision,
        scores=tuple(work.scores),
        observations=(*_facts(work), *seen(clip, store), *_notes(work, policy_filter)),
        context=work.item.context,
        duration_seconds=_duration_seconds(work),
        frame_pts_seconds=tuple(float(pts) for pts in frames),
        cost_seconds=_cost_seconds(work),
    )


def failed(work: Work, failure: Failure) -> Outcome:
    """The outcome of an item that could not be decided."""
    return Outcome(
        video_id=work.item.video_id,
        path=work.item.printable_path,
        status="failed",
        reason=failure.reason,
        error=failure.code,
        scores=tuple(work.scores),
        observations=(*(_facts(work) or work.item.observations), *work.routes),
        context=work.item.context,
        duration_seconds=_duration_seconds(work),
        cost_seconds=_cost_seconds(work),
    )


def _duration_seconds(work: Work) -> float | None:
    return None if work.known is None else work.known.info.content_span.duration_seconds


def _facts(work: Work) -> tuple[Observation, ...]:
    return () if work.known is None else (*work.known.facts, *work.known.audio_facts)


def _notes(work: Work, policy_filter: Filter) -> Iterator[Observation]:
    yield from work.routes
    if work.scores and work.scores[-1].missing:
        missing = list(work.scores[-1].missing)
        yield Observation(kind="missing_modality", value=missing, producer="pipeline.retriever")
    region, policy = work.item.context.region, policy_filter.policy
    if region is None:
        yield Observation(kind="fallback", value=_NO_REGION, producer="pipeline.filter")
    value = {"name": policy.name, "version": policy.version, "hash": policy.policy_hash, "levels": policy.chain(region)}
    yield Observation(kind="policy", value=value, producer="pipeline.filter")


def _cost_seconds(work: Work) -> float:
    return work.decode_seconds + sum(score.cost_seconds for score in work.scores)
