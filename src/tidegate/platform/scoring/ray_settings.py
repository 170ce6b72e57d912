"""Settings of scoring on Ray; Ray is imported when a scorer is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.platform.scoring.context import ScoringContext

if TYPE_CHECKING:
    from tidegate.platform.contracts import Scorer

__all__ = ["RayBackfillSettings", "RayScorerSettings", "open_ray_backfill", "open_ray_serve"]


@dataclass(frozen=True, kw_only=True)
class RayScorerSettings:
    """``[scoring] kind = "ray"``."""

    address: str | None = None
    """Ray cluster (``auto``, ``ray://head:10001``); absent: a Ray of this machine is started."""
    preset: str = "tiny"
    """Name of a preset, or a folder with checkpoints that every node can read."""
    stages: tuple[str, ...] = ("base", "large")
    """Deployed stages, in the order in which they are asked."""
    deploy: bool = True
    """False: the applications ``tidegate-STAGE`` run already."""
    defer: bool = False
    """True: later stages have a loop of their own."""
    max_batch: int = 8
    """Items that a replica scores at a time."""
    batch_wait_seconds: float = 0.02
    """How long a batch waits to fill."""
    min_replicas: int = 1
    """Of each stage, always there."""
    max_replicas: int = 2
    """Of each stage; Ray scales between the two by requests that wait."""
    cpus_per_replica: float = 1.0
    """CPU cores that Ray sets aside for a replica."""
    base_gpus: float = 0.0
    """GPUs of a replica of the first stage; may be a fraction."""
    large_gpus: float = 0.0
    """GPUs of a replica of later stages."""
    base_device: str = "cpu"
    """Where the first stage's model runs."""
    large_device: str = "cpu"
    """Where later stages' models run."""
    decoders: int = 1
    """Decoding processes of each replica."""
    fetch_urls: bool = False
    """True: http(s) locations are downloaded for reading, under the rules of ``[locations]``."""
    timeout_seconds: float = 300.0
    """For one batch, start of replicas included."""

    def gpus_of(self, stage: str) -> float:
        """GPUs that a stage holds while it computes."""
        return self.base_gpus if stage == self.stages[0] else self.large_gpus

    def __post_init__(self) -> None:
        if not self.stages or self.max_batch < 1 or not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(f"expected stages, max_batch >= 1 and 1 <= min_replicas <= max_replicas, got {self}")


@dataclass(frozen=True, kw_only=True)
class RayBackfillSettings:
    """``[scoring] kind = "ray_data"``: for backfills, with a large ``[batch] max_batch``."""

    address: str | None = None
    """Ray cluster; absent: a Ray of this machine is started."""
    preset: str = "tiny"
    """Name of a preset, or a folder with checkpoints that every node can read."""
    device: str = "cpu"
    """Where the models of each actor run."""
    actors: int = 1
    """Processes that score side by side."""
    batch_size: int = 32
    """Items that an actor gets at a time."""
    cpus_per_actor: float = 1.0
    """CPU cores that Ray sets aside for an actor."""
    gpus_per_actor: float = 0.0
    """GPUs of an actor."""

    def gpus_of(self, stage: str) -> float:
        """GPUs that a stage holds while it computes."""
        return self.gpus_per_actor

    def __post_init__(self) -> None:
        if self.actors < 1 or self.batch_size < 1:
            raise ValueError(f"expected actors >= 1 and batch_size >= 1, got {self.actors} and {self.batch_size}")


def open_ray_serve(settings: RayScorerSettings, context: ScoringContext) -> Scorer:
    """The scorer of a configuration."""
    from tidegate.platform.scoring.ray_serve import open_ray_scorer

    return open_ray_scorer(settings, context)


def open_ray_backfill(settings: RayBackfillSettings, context: ScoringContext) -> Scorer:
    """The scorer of a configuration."""
    from tidegate.platform.scoring.ray_data import BackfillScorer

    return BackfillScorer(settings, context)
