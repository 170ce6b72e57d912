"""The stages of a model's life beside supervised fine-tuning, from checkpoint to checkpoint.

Enters: a checkpoint folder or published weights. Leaves: a checkpoint folder that the next stage starts from:
``align_stage`` (hear), ``train_stage`` (judge), ``prefer_stage`` (prefer right reasons), in this order.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table as Columns

from tidegate.corpus.manifest import Entry, read_manifest
from tidegate.errors import CheckpointError, ConfigError, DependencyMissing
from tidegate.models.avlm import Avlm
from tidegate.models.card import Card
from tidegate.models.checkpoint import load_checkpoint, save_checkpoint
from tidegate.models.compose import compose_avlm
from tidegate.models.processor import ClipProcessor
from tidegate.training.align import AlignConfig, AlignResult, align, fused_early
from tidegate.training.engine import Engine, OneProcess
from tidegate.training.evaluate import entries_of
from tidegate.training.features import FeatureTable, load_features
from tidegate.training.prefer import Pair, PreferConfig, PreferResult, pairs_from_truth, prefer, read_pairs
from tidegate.training.speech import Heard, SpeechConfig, heard_items, speech_table
from tidegate.training.stage import SYNTHETIC_NOTICE, Progress

__all__ = ["align_stage", "curve_table", "draw_curve", "prefer_stage", "print_curve", "start_of"]

Start = tuple[Avlm, ClipProcessor, Card]


def start_of(init: Path | None, vl: str | None = None, audio: str | None = None) -> Start:
    """The AVLM of a checkpoint folder, or of published weights."""
    if (init is None) == (vl is None):
        raise ConfigError("expected one thing to start from: a checkpoint folder, or published weights")
    if vl is not None:
        return compose_avlm(issue="icd", vl=vl, audio=audio)
    assert init is not None
    model, processor, card = load_checkpoint(init)
    if not isinstance(model, Avlm):
        raise CheckpointError(f"expected an Avlm in {init}, found a {type(model).__name__}")
    return model, processor, card


def _write_json(path: Path, values: Any) -> None:
    fresh = path.with_name(path.name + ".part")
    fresh.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def _heard(
    part: Literal["train", "test"], speech: SpeechConfig, processor: ClipProcessor, cache: Path, progress: Progress
) -> tuple[list[Heard], FeatureTable]:
    items, table = speech_table(heard_items(speech, part), processor, cache, progress=progress.on_decode)
    hours = float(table.num_mel_frames_N.sum()) / 360_000
    origin = "read from the cache" if table.from_cache else "spoken"
    progress.note(f"{part}: {len(items)} items, {hours:.2f} hours, {origin}; {len(table.failed)} could not be spoken")
    return items, table


def align_stage(
    start: Start,
    out: Path,
    config: AlignConfig,
    *,
    seed: int = 0,
    cache: Path,
    command: str | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> AlignResult:
    """Audio alignment: writes the checkpoint ``out`` and the curve ``<out>.alignment.json``; a stopped run goes on."""
    progress, engine = progress or Progress(), engine or OneProcess()
    if engine.shard.world_size > 1:
        raise ConfigError("expected one process for audio alignment, got several")
    given, processor, card = start
    model = fused_early(given, config.audio_tokens, seed)
    heard = _heard("train", config.speech, processor, cache, progress)
    tested = _heard("test", config.speech, processor, cache, progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    result = align(
        model,
        processor,
        heard,
        tested,
        config,
        seed=seed,
        resume=out.with_name(out.name + ".resume.pt"),
        engine=engine,
        on_step=progress.on_step,
        on_mark=lambda record: progress.note(_mark(record)),
    )
    _write_json(out.with_name(out.name + ".alignment.json"), list(result.curve))
    last = {name: value for name, value in result.curve[-1].items() if name != "by_language"}
    save_checkpoint(
        model,
        processor,
        out,
        replace(
            card,
            name=f"{card.name}-aligned",
            issue=model.config.issue,
            notice=SYNTHETIC_NOTICE if card.notice is None else card.notice,
            seed=seed,
            command=command,
            recipe={"align": dataclasses.asdict(config)},
            metrics={"alignment": last},
            notes=(*card.notes, f"audio alignment from {card.name}: its verdicts need fine-tuning"),
        ),
    )
    return result


def _mark(record: dict[str, Any]) -> str:
    return (
        f"{record['hours']:.2f} h heard: loss {record['loss']:.3f}, WER {record['wer']:.3f}, CER {record['cer']:.3f}, "
        f"sounds named {record['sounds']:.1%}"
    )


def curve_table(curve: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The curve as rows of a table, the first one its heading: all languages together, then each language."""

    def cell(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.2f}"

    rows = [["error rate after", *(f"{record['hours']:.2f} h" for record in curve)]]
    names = {
        "wer": "WER, languages with spaces",
        "known_wer": "WER, sentences heard in training",
        "new_order_wer": "WER, new sentences",
        "cer": "CER, all languages",
        "sounds": "sounds named rightly (share)",
    }
    rows += [[text, *(cell(record[name]) for record in curve)] for name, text in names.items()]
    for code in curve[0]["by_language"]:
        rows.append([code, *(cell(record["by_language"][code]) for record in curve)])
    return rows


def draw_curve(curve: Sequence[dict[str, Any]], path: Path) -> None:
    """The curve as a picture (``.svg`` or ``.png``): all languages together in bold, each language thin."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyMissing("a plot of the curve: pip install 'tidegate[bench]'") from error
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    hours = [record["hours"] for record in curve]
    for code in curve[0]["by_language"]:
        axes.plot(hours, [record["by_language"][code] for record in curve], color="0.8", linewidth=0.8)
    bold = {"wer": "WER, languages with spaces", "cer": "CER, all languages", "known_wer": "WER, known sentences"}
    for name, label in bold.items():
        axes.plot(hours, [record[name] for record in curve], marker="o", label=label)
    axes.set(xlabel="equivalent audio training time, hours", ylabel="error rate, other speakers", ylim=(0, 1.5))
    axes.legend()
    figure.savefig(path)


def print_curve(curve: Sequence[dict[str, Any]]) -> None:
    """The table on stdout."""
    heading, *rows = curve_table(curve)
    table = Columns(title="Errors on other speakers against hours of audio heard")
    for column in heading:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _pairs(path: Path | None, entries: Sequence[Entry], issue: str, seed: int) -> list[Pair]:
    if path is None:
        return pairs_from_truth(entries, issue, seed)
    wanted = {entry.video_id for entry in entries}
    return [pair for pair in read_pairs(path) if pair.video_id in wanted]


def prefer_stage(
    data: Path,
    out: Path,
    init: Path,
    config: PreferConfig,
    *,
    pairs: Path | None = None,
    seed: int = 0,
    cache: Path,
    workers: int = 2,
    command: str | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> PreferResult:
    """Preference alignment on the training split's pairs, measured on validation's; writes the checkpoint ``out``."""
    progress = progress or Progress()
    model, processor, card = start_of(init)
    manifest, issue = read_manifest(data), model.config.issue
    manifest.check_files()
    splits = [entries_of(manifest, name, issue) for name in ("train", "validation")]
    entries = [entry for split in splits for entry in split]
    table = load_features(entries, processor, cache, workers=workers, progress=progress.on_decode)
    origin = "read from the cache" if table.from_cache else "decoded"
    progress.note(f"features of {len(table)} videos {origin}; {len(table.failed)} failed to decode")
    given, held = (_pairs(pairs, split, issue, seed) for split in splits)
    result = prefer(
        model, processor, (given, table), (held, table), config, seed=seed, engine=engine, on_step=progress.on_step
    )
    notes = (*card.notes, f"preference alignment (DPO) on {len(given)} pairs, from {card.name}")
    settings = {**dataclasses.asdict(config), "pairs": "synthetic truth" if pairs is None else pairs.name}
    save_checkpoint(
        model,
        processor,
        out,
        replace(
            card,
            name=f"{card.name}-preferred",
            seed=seed,
            command=command,
            recipe={"prefer": settings},
            metrics={"before": result.before, "after": result.after},
            notes=notes,
        ),
    )
    return result
