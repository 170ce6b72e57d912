"""Make the synthetic corpus: plans become files and a manifest.

Enters: a ``SyntheticConfig``. Leaves: ``videos/<id>.mp4``, ``videos/<id>.info.json`` (what a platform knows: title,
views, region, in-app stickers; no truth) and ``manifest.parquet`` with labels and truth. Each video depends on the
seed and its index only, so processes share the work freely; finished videos are kept when a run is taken up again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tidegate.corpus.manifest import Entry, Manifest, write_manifest
from tidegate.corpus.splits import side_of
from tidegate.corpus.synthetic.config import CORPUS_VERSION, SyntheticConfig
from tidegate.corpus.synthetic.icd import make_icd_video
from tidegate.corpus.synthetic.plan import Source, sources_of
from tidegate.corpus.synthetic.ucc import make_ucc_video
from tidegate.errors import ConfigError
from tidegate.types import TextSpan

__all__ = ["make_corpus"]

Progress = Callable[[int, int], None]
_Job = tuple[SyntheticConfig, int, Source, int]
_MAKERS = {"icd": make_icd_video, "ucc": make_ucc_video}


def make_corpus(config: SyntheticConfig, progress: Progress | None = None) -> Manifest:
    """Make the corpus of ``config``, or finish it; ``progress`` is told (done, total) after every video."""
    folder = config.folder
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    _claim(config)
    jobs = [(config, index, source, place) for index, (source, place) in enumerate(sources_of(config))]
    entries: list[Entry] = []
    for record in _made(jobs, config.workers):
        entries.append(_entry(record, folder))
        if progress is not None:
            progress(len(entries), len(jobs))
    return write_manifest(Manifest(entries=tuple(entries)), folder / "manifest.parquet")


def _claim(config: SyntheticConfig) -> None:
    """Write which corpus this folder holds; refuse to mix two in one folder."""
    own = {
        "corpus_version": CORPUS_VERSION, "seed": config.seed, "task": config.task, "prevalence": config.prevalence,
        "regions": None if config.regions is None else list(config.regions),
        "look_alike_share": config.look_alike_share, "noise_share": config.noise_share,
    }  # fmt: skip
    file = config.folder / "corpus.json"
    if file.is_file():
        there = json.loads(file.read_text(encoding="utf-8"))
        if there != own:
            raise ConfigError(f"{file}: expected an empty folder or the corpus {own}, got {there}")
    file.write_text(json.dumps(own, indent=1), encoding="utf-8")


def _made(jobs: list[_Job], workers: int) -> Iterator[dict[str, Any]]:
    if workers == 1:
        yield from map(_make, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = iter(jobs)
        running = [pool.submit(_make, job) for job in islice(waiting, 4 * workers)]
        while running:
            yield running.pop(0).result()
            running.extend(pool.submit(_make, job) for job in islice(waiting, 1))


def _make(job: _Job) -> dict[str, Any]:
    """One video, unless a finished one lies there; its record is written last and so marks it as finished."""
    config, index, source, place = job
    done = config.folder / "records" / f"{index:07d}.json"
    if done.is_file():
        record: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if (config.folder / record["path"]).is_file():
            return record
    record = _MAKERS[config.task](config, index, source, place)
    _write_atomically(config.folder / Path(record["path"]).with_suffix(".info.json"), _sidecar(record))
    _write_atomically(done, record)
    return record


def _write_atomically(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    part.replace(file)


def _sidecar(record: dict[str, Any]) -> dict[str, Any]:
    """Facts that a platform knows of an upload, under yt-dlp's names."""
    by_kind = {
        kind: [text["text"] for text in record["texts"] if text["kind"] == kind] for kind in ("title", "sticker")
    }
    return {
        "id": record["video_id"],
        "title": by_kind["title"][0],
        "view_count": record["views"],
        "language": record["language"],
        "uploader": record["creator"],
        "region": record["region"],
        "stickers": by_kind["sticker"],
    }


def _entry(record: dict[str, Any], folder: Path) -> Entry:
    return Entry(
        video_id=record["video_id"],
        path=folder / record["path"],
        labels=record["labels"],
        region=record["region"],
        language=record["language"],
        views=record["views"],
        creator=record["creator"],
        source_id=record["source_id"],
        split=side_of(record["source_id"]),
        texts=tuple(TextSpan(**text) for text in record["texts"]),
        truth=record["truth"],
    )
