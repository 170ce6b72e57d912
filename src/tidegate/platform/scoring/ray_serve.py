"""Scoring on Ray Serve: one deployment for each stage, with dynamic batches and autoscaling of its own.

Enters: items. Leaves: the same decisions as in process, since a replica runs the very same ``LocalStage`` and the
routing stays with the worker. Replicas read media themselves, so only events and scores travel. CPU stages and GPU
stages are apart: ``num_gpus`` is set for each. An application that is deployed already (by a RayService manifest, see
deploy/) is used as it is with ``deploy = false``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.cascade import CachedStage
from tidegate.errors import DependencyMissing, ServiceUnavailable
from tidegate.media import DecoderPool, Limits
from tidegate.pipeline.routing import CalibratedStage, RegionalCascades
from tidegate.platform.contracts import Dead, ScoringItem
from tidegate.platform.fetch import Fetcher
from tidegate.platform.location import LocationRules
from tidegate.platform.scoring.assembly import load_stages
from tidegate.platform.scoring.cascade import CascadeScorer, StageScored
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.scoring.local import LocalStage, MediaReader
from tidegate.platform.scoring.ray_settings import RayScorerSettings

__all__ = ["RayStage", "StageReplica", "application", "build", "open_ray_scorer"]


@dataclass(frozen=True, kw_only=True)
class _Replica:
    """What a replica is made from."""

    preset: str
    stage: str
    device: str
    max_batch: int
    decoders: int
    media_folder: str | None
    fetch_urls: bool
    allow_hosts: tuple[str, ...] = ()


class StageReplica:
    """One copy of one stage, in a process of Ray's."""

    def __init__(self, made_from: Mapping[str, Any]) -> None:
        how = _Replica(**made_from)
        chosen = load_stages(how.preset, device=how.device, batch_size=how.max_batch)
        (self._entry,) = [entry for entry in chosen if entry.stage.name == how.stage]
        rules = LocationRules(allow_hosts=how.allow_hosts)
        folder = None if how.media_folder is None else Path(how.media_folder)
        fetcher = Fetcher(rules) if how.fetch_urls else None
        self._decoder = DecoderPool(how.decoders, Limits())
        reader = MediaReader(self._decoder, media_folder=folder, fetcher=fetcher)
        self._stage = LocalStage(self._entry.stage, reader, readers=how.decoders)

    def describe(self) -> dict[str, Any]:
        """What the routing must know of the stage."""
        entry = self._entry
        return {
            "name": entry.stage.name, "issue": entry.stage.issue, "flag_threshold": entry.flag_threshold,
            "tau": entry.tau, "taus": dict(entry.taus), "max_entropy": entry.max_entropy,
        }

    async def score_batch(self, items: list[ScoringItem]) -> list[StageScored | Dead]:
        """One batch; Ray collects it from single requests."""
        return list(await asyncio.to_thread(self._stage.score_items, items))


def application(settings: RayScorerSettings, context: ScoringContext, stage: str) -> Any:
    """The Serve application of one stage."""
    from ray import serve

    batched = serve.batch(max_batch_size=settings.max_batch, batch_wait_timeout_s=settings.batch_wait_seconds)

    class Deployment(StageReplica):
        @batched
        async def score(self, items: list[ScoringItem]) -> list[StageScored | Dead]:
            return await self.score_batch(items)

    first = stage == "base"
    made_from = {
        "preset": settings.preset, "stage": stage, "max_batch": settings.max_batch, "decoders": settings.decoders,
        "device": settings.base_device if first else settings.large_device, "fetch_urls": settings.fetch_urls,
        "media_folder": None if context.media_folder is None else str(context.media_folder),
        "allow_hosts": context.locations.allow_hosts,
    }
    options: dict[str, Any] = {
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": 2 * settings.max_batch,
        },
        "ray_actor_options": {
            "num_cpus": settings.cpus_per_replica,
            "num_gpus": settings.base_gpus if first else settings.large_gpus,
        },
        "max_ongoing_requests": 4 * settings.max_batch,
    }
    return serve.deployment(name=f"stage-{stage}", **options)(Deployment).bind(made_from)


def build(arguments: Mapping[str, Any]) -> Any:
    """Builder for a Serve configuration file: ``import_path: tidegate.platform.scoring.ray_serve:build``."""
    from tidegate.pipeline.policy_file import default_policy

    given = dict(arguments)
    stage, folder = given.pop("stage"), given.pop("media_folder", None)
    context = ScoringContext(policy=default_policy(), media_folder=None if folder is None else Path(folder))
    return application(RayScorerSettings(**given), context, stage)


class RayStage:
    """``ItemStage`` over a Serve application."""

    def __init__(self, name: str, handle: Any, *, timeout_seconds: float) -> None:
        self.name = name
        self._handle, self._timeout = handle, timeout_seconds

    def score_items(self, items: Sequence[ScoringItem]) -> Sequence[StageScored | Dead]:
        """Send all, wait for all."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            responses = [self._handle.score.remote(item) for item in items]
            return [response.result(timeout_s=self._timeout) for response in responses]
        except (RayError, RayServeException, TimeoutError) as error:
            raise ServiceUnavailable(f"stage {self.name} on Ray Serve: {error}") from error

    def close(self) -> None:
        """The application stays."""


def open_ray_scorer(settings: RayScorerSettings, context: ScoringContext) -> CascadeScorer:
    """Deploy (or find) the stages' applications; the scorer over them."""
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise DependencyMissing("scoring on Ray needs the ray extra: pip install 'tidegate[ray]'") from error
    if not ray.is_initialized():
        ray.init(address=settings.address, namespace="tidegate", ignore_reinit_error=True, log_to_driver=False)
    stages, entries = [], []
    for stage in settings.stages:
        name = f"tidegate-{stage}"
        if settings.deploy and name not in serve.status().applications:
            serve.run(application(settings, context, stage), name=name, route_prefix=None)
        handle = serve.get_app_handle(name)
        described = handle.describe.remote().result(timeout_s=settings.timeout_seconds)
        known = CachedStage(name=described.pop("name"), issue=described.pop("issue"), scores={})
        entries.append(CalibratedStage(stage=known, **described))
        stages.append(RayStage(stage, handle, timeout_seconds=settings.timeout_seconds))
    cascades = RegionalCascades(entries, context.policy)
    return CascadeScorer(
        stages, cascades, defer=settings.defer and not context.later, chunk=settings.max_batch * settings.max_replicas *
        4
    )
