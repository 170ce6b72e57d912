"""Scanner: the front door. Stages, their thresholds and a policy, ready to scan.

Enters: a preset's name (or a folder with checkpoints), then paths. Leaves: ``Outcome`` values.

    scanner = load_preset("tiny")
    outcome = scanner.scan("video.mp4")
    for outcome in scanner.scan_many(["folder"], out="results"): ...

A scanner does not change: ``with_base`` and ``with_policy`` give new ones. Its decoding processes start with the
first scan and end with ``close``, with the ``with`` block, or when the scanner is forgotten.
"""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from tidegate.cascade import Stage
from tidegate.errors import ConfigError, UsageError
from tidegate.media import DecoderPool, Limits, MediaInfo
from tidegate.pipeline.evidence import EvidenceStore
from tidegate.pipeline.filter import Filter
from tidegate.pipeline.flow import RunnerConfig
from tidegate.pipeline.policy import Policy
from tidegate.pipeline.policy_file import default_policy, read_policy
from tidegate.pipeline.resume import Resume, setup_hash
from tidegate.pipeline.retriever import OnScreenText, Retriever
from tidegate.pipeline.routing import CalibratedStage, RegionalCascades, calibrated
from tidegate.pipeline.runner import Runner
from tidegate.pipeline.sink import FolderSink
from tidegate.pipeline.source import Source, item_of_file
from tidegate.pipeline.stage_file import read_stages
from tidegate.types import Clip, ClipRequest, Outcome, TextSpan, VideoContext

__all__ = ["ScanSettings", "Scanner", "load_preset"]

PathArg = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class ScanSettings:
    """How a scanner works, apart from what it decides."""

    workers: int = field(default_factory=lambda: max(1, min(8, len(os.sched_getaffinity(0)))))
    """Decoding processes."""
    limits: Limits = field(default_factory=Limits)
    """Hard limits on each video."""
    batch_size: int = 8
    """Clips that a stage is given at a time."""
    max_held_bytes: int = 256 * 2**20
    """Decoded frames and audio in memory over which no new video is taken."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.batch_size < 1:
            raise ConfigError(f"expected workers >= 1 and batch_size >= 1, got {self.workers} and {self.batch_size}")

    @property
    def runner(self) -> RunnerConfig:
        """The runner's share of the settings: enough items inside to keep decoders and stages busy."""
        return RunnerConfig(
            decode_threads=self.workers,
            max_in_flight=4 * (self.workers + self.batch_size),
            max_held_bytes=self.max_held_bytes,
            max_batch=self.batch_size,
        )


class Scanner:
    """Scans videos with a cascade under a policy."""

    def __init__(
        self,
        stages: Sequence[CalibratedStage],
        *,
        policy: Policy | None = None,
        settings: ScanSettings | None = None,
        on_screen_text: OnScreenText | None = None,
    ) -> None:
        issues = sorted({entry.stage.issue for entry in stages})
        if len(issues) != 1:
            raise UsageError(f"expected stages of one issue, got {issues or 'no stages'}")
        self.stages = tuple(stages)
        self.policy = default_policy() if policy is None else policy
        self.settings = settings or ScanSettings()
        self._on_screen_text = on_screen_text
        self._cascades = RegionalCascades(self.stages, self.policy)
        self._decoder = _LazyPool(self.settings)
        self._finalizer = weakref.finalize(self, self._decoder.close)

    @property
    def notices(self) -> tuple[str, ...]:
        """What must be said wherever the verdicts are shown, by the models' cards."""
        notices = [getattr(entry.stage, "notice", None) for entry in self.stages]
        return tuple(dict.fromkeys(notice for notice in notices if isinstance(notice, str)))

    def with_base(self, stage: Stage, *, escalate_at: float, flag_at: float = 0.5) -> Scanner:
        """The same scanner with another first stage. ``escalate_at`` and ``flag_at`` are scores of that stage."""
        base = CalibratedStage(stage=stage, tau=escalate_at, flag_threshold=flag_at)
        return self._again(stages=(base, *self.stages[1:]))

    def with_policy(self, policy: Policy | PathArg) -> Scanner:
        """The same scanner under another policy, or the one in a file."""
        return self._again(policy=policy if isinstance(policy, Policy) else read_policy(os.fspath(policy)))

    def _again(self, *, stages: Sequence[CalibratedStage] | None = None, policy: Policy | None = None) -> Scanner:
        return Scanner(
            stages or self.stages, policy=policy or self.policy, settings=self.settings,
            on_screen_text=self._on_screen_text,
        )

    def scan(self, path: PathArg, *, context: VideoContext | None = None) -> Outcome:
        """What becomes of one video. A video that cannot be scanned is a failed outcome, not an exception."""
        item = item_of_file(Path(path))
        if context is not None:
            item = dataclasses.replace(item, context=context)
        (finished,) = self.runner().run([item])
        return finished.outcome

    def scan_many(
        self,
        paths: Iterable[PathArg],
        *,
        out: PathArg | None = None,
        region: str | None = None,
        resume: bool = False,
        retry_failed: bool = False,
    ) -> Iterator[Outcome]:
        """Outcomes of files, folders, globs and lists, as they finish; with ``out`` they are written there too."""
        source = Source(paths, region=region)
        with ExitStack() as stack:
            sink = None if out is None else stack.enter_context(FolderSink(Path(out)))
            for finished in self.runner(sink, resume=resume, retry_failed=retry_failed).run(source):
                yield finished.outcome
            if sink is not None:
                sink.finish()

    def runner(self, sink: FolderSink | None = None, *, resume: bool = False, retry_failed: bool = False) -> Runner:
        """One run of this scanner, for callers that want its statistics or want to stop it."""
        setup = setup_hash(self.policy, self.stages, reads_on_screen_text=self._on_screen_text is not None)
        stored = sink.index.stored if sink is not None and resume else None
        return Runner(
            stages=self.stages,
            cascades=self._cascades,
            retriever=Retriever(self._decoder, on_screen_text=self._on_screen_text),
            policy_filter=Filter(self.policy),
            config=self.settings.runner,
            sink=sink,
            evidence=None if sink is None else EvidenceStore(sink.evidence_folder),
            version=0 if sink is None else sink.index.next_version(),
            resume=Resume(stored=stored, setup=setup, retry_failed=retry_failed),
            abort=self.close,
        )

    def close(self) -> None:
        """End the decoding processes; the next scan starts new ones."""
        self._decoder.close()

    def __enter__(self) -> Scanner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LazyPool:
    """A ``DecoderPool`` that starts with its first call."""

    def __init__(self, settings: ScanSettings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._pool: DecoderPool | None = None

    def read_clip(
        self, path: Path, request: ClipRequest, *, video_id: str, texts: tuple[TextSpan, ...], context: VideoContext
    ) -> tuple[MediaInfo, Clip]:
        with self._lock:
            if self._pool is None:
                self._pool = DecoderPool(self._settings.workers, self._settings.limits)
            pool = self._pool
        return pool.read_clip(path, request, video_id=video_id, texts=texts, context=context)

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


def load_preset(
    name_or_folder: PathArg = "tiny",
    *,
    device: str = "cpu",
    policy: Policy | PathArg | None = None,
    settings: ScanSettings | None = None,
    on_screen_text: OnScreenText | None = None,
) -> Scanner:
    """The scanner of a preset, of a folder with checkpoints in ``base`` and ``large``, or of a stage file (.toml)."""
    settings = settings or ScanSettings()
    stages = _stages(name_or_folder, device, settings.batch_size)
    rules = policy if policy is None or isinstance(policy, Policy) else read_policy(os.fspath(policy))
    return Scanner(stages, policy=rules, settings=settings, on_screen_text=on_screen_text)


def _stages(name_or_folder: PathArg, device: str, batch_size: int) -> list[CalibratedStage]:
    from tidegate.models import PRESETS, load_stage, preset

    folder = Path(name_or_folder)
    if folder.suffix == ".toml":
        return read_stages(folder, device=device, batch_size=batch_size)
    if os.fspath(name_or_folder) not in PRESETS and folder.is_dir():
        names = [name for name in ("base", "large") if (folder / name).is_dir()]
        if "base" not in names:
            raise ConfigError(f"expected a folder with checkpoints in base and large, got neither in {folder}")
        loaded = [load_stage(folder / name, name=name, device=device, batch_size=batch_size) for name in names]
    else:
        chosen = preset(os.fspath(name_or_folder))
        loaded = [
            chosen.load_stage("base", device=device, batch_size=batch_size),
            chosen.load_stage("large", device=device, batch_size=batch_size),
        ]
    return [calibrated(stage, stage.thresholds) for stage in loaded]
