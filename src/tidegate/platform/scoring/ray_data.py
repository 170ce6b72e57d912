"""Backfill with Ray Data: millions of files, scored by a pool of actors, resumable.

Enters: large batches of items. Leaves: the same results as in process. The ordinary loop does the rest: it reads a
logged stream, writes index and audit trail batch by batch and remembers how far it is, so a backfill that breaks off
goes on with the next batch. Ray Data spreads a batch over the actors, holds back when they are behind, and starts lost
actors again; each actor holds the whole cascade (``local_scorer``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidegate.errors import DependencyMissing, ServiceUnavailable
from tidegate.pipeline.policy import Policy
from tidegate.pipeline.routing import RegionalCascades
from tidegate.platform.contracts import Scored, ScoringItem
from tidegate.platform.scoring.assembly import load_stages
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.scoring.preset import PresetScorerSettings, open_preset_scorer
from tidegate.platform.scoring.ray_settings import RayBackfillSettings
from tidegate.platform.scoring.wire import decode_results, encode_results

__all__ = ["BackfillScorer"]


class _Actor:
    """One process of the pool."""

    def __init__(self, settings: PresetScorerSettings, context: ScoringContext) -> None:
        self._scorer = open_preset_scorer(settings, context)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        items = [msgspec.msgpack.decode(bytes(raw), type=ScoringItem) for raw in batch["item"]]
        results = self._scorer.score_many(items)
        return {
            "number": list(batch["number"]),
            "result": [encode_results([result]) for result in results],
        }


class BackfillScorer:
    """``Scorer`` over a pool of actors."""

    def __init__(self, settings: RayBackfillSettings, context: ScoringContext) -> None:
        try:
            import ray
        except ImportError as error:
            raise DependencyMissing("scoring on Ray needs the ray extra: pip install 'tidegate[ray]'") from error
        if not ray.is_initialized():
            ray.init(address=settings.address, namespace="tidegate", log_to_driver=False)
        self._settings, self._context = settings, context

    def score_many(self, items: Sequence[ScoringItem]) -> Sequence[Scored]:
        import ray
        from ray.exceptions import RayError

        settings = self._settings
        preset = PresetScorerSettings(preset=settings.preset, device=settings.device, batch_size=settings.batch_size)
        rows = [{"number": number, "item": msgspec.msgpack.encode(item)} for number, item in enumerate(items)]
        try:
            scored = ray.data.from_items(rows).map_batches(
                _Actor, fn_constructor_args=(preset, self._context), batch_size=settings.batch_size,
                compute=ray.data.ActorPoolStrategy(size=settings.actors), num_cpus=settings.cpus_per_actor,
                num_gpus=settings.gpus_per_actor or None, batch_format="default",
            ).take_all()
        except RayError as error:
            raise ServiceUnavailable(f"the backfill's actors: {error}") from error
        results: dict[int, Scored] = {row["number"]: decode_results(row["result"])[0] for row in scored}
        return [results[number] for number in range(len(items))]

    def check_policy(self, policy: Policy) -> None:
        """Loads the stages here, for their thresholds; raises ``ConfigError`` if the policy wants others."""
        stages = load_stages(self._settings.preset, device="cpu", batch_size=1)
        RegionalCascades(stages, policy)

    def use_policy(self, policy: Policy) -> None:
        """Actors of the next batch route by this policy."""
        self._context = dataclasses.replace(self._context, policy=policy)

    def close(self) -> None:
        """Actors end with each batch."""
