"""``tidegate reproduce``: rows match the paper's, a planted signal is found, sums are right, nothing is repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from tidegate.bench.reproduce import run as run_module
from tidegate.bench.reproduce.figures import RowScores, difference, figures_of, scores_of_cascade
from tidegate.bench.reproduce.paper import COLUMNS, TABLES
from tidegate.bench.reproduce.run import ReproduceConfig, lora_grid, reproduce_tables, stock_files
from tidegate.bench.reproduce.stock import Foundation, Stock
from tidegate.bench.reproduce.training import TrialResult, schedule_of
from tidegate.bench.reproduce.trials import FULL_BASE, FULL_MLLM, PAIRS, ROWS, CascadeRow, Trial, trials_of
from tidegate.cli import reproduce as reproduce_cli
from tidegate.corpus import Entry, Manifest, write_manifest
from tidegate.errors import CheckpointError, ManifestError, UsageError
from tidegate.models.build import build_model
from tidegate.models.card import Card
from tidegate.models.checkpoint import save_checkpoint
from tidegate.models.configs import AvlmConfig, ModelConfig, MultiTowerConfig, ProcessorConfig
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer
from tidegate.training.frozen import FrozenTable, write_frozen
from tidegate.training.recipes import whisper_encoder

SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
WHISPER = whisper_encoder(32, 1, 2, 16)
LLAVA = {
    "model_type": "llava_onevision",
    "vision_config": {**SIGLIP, "vision_use_head": False},
    "text_config": {**TEXT, "model_type": "qwen2", "num_key_value_heads": 2},
    "video_token_index": 3,
    "image_token_index": 3,
}
CONFIGS: dict[str, ModelConfig] = {
    "large": AvlmConfig(issue="icd", vision_language=LLAVA, audio=WHISPER),
    "base": MultiTowerConfig(
        issue="icd",
        vision=SIGLIP,
        audio=WHISPER,
        text={**TEXT, "model_type": "xlm-roberta", "max_position_embeddings": 64},
    ),
}
COUNT = 240


def _foundation(folder: Path) -> Path:
    tokenizer = build_tokenizer([["one two three"]], 300)
    for stage, config in CONFIGS.items():
        torch.manual_seed(0)
        processor = ProcessorConfig(
            modalities=config.modalities,
            num_frames=2,
            image_size=16,
            audio_seconds=2,
            num_mel_bins=16,
            video_tokens_per_frame=4 if stage == "large" else 0,
            prompt_suffix="</s>",
        )
        card = Card(name=stage, issue="icd")
        save_checkpoint(build_model(config), ClipProcessor(processor, tokenizer), folder / f"warm-{stage}", card)
    return folder


def _manifest(folder: Path) -> Path:
    splits = ("train", "train", "train", "validation", "test")
    entries = [
        Entry(
            video_id=f"v{n}",
            path=folder / f"v{n}.mp4",
            labels={"icd": n % 2},
            source_id=f"s{n // 2}",
            split=splits[(n // 2) % 5],  # type: ignore[arg-type]
        )
        for n in range(COUNT)
    ]
    write_manifest(Manifest(entries=tuple(entries)), folder / "manifest.parquet")
    return folder / "manifest.parquet"


@pytest.fixture
def planted(tmp_path: Path) -> ReproduceConfig:
    """A stock as it is after decoding, in which the label stands in the audio, and faintly in the frames."""
    data, foundation = _manifest(tmp_path), _foundation(tmp_path / "foundation")
    config = ReproduceConfig(
        data=data, folder=tmp_path / "work", tables=(1,), seeds=2, foundation=foundation, num_samples=30
    )
    files, rng, labels = stock_files(config), np.random.default_rng(0), np.arange(COUNT) % 2
    for stage in ("base", "large"):
        patches = rng.standard_normal((COUNT, 2, 16, 32)) + 0.1 * labels[:, None, None, None]
        audio = rng.standard_normal((COUNT, 32)) + 1.5 * labels[:, None]
        table = FrozenTable(
            video_ids=tuple(f"v{n}" for n in range(COUNT)),
            patches_NTPD=patches.astype(np.float16),
            num_frames_N=np.full(COUNT, 2),
            audio_ND=audio.astype(np.float32),
            has_audio_N=np.ones(COUNT, dtype=bool),
            token_ids=[np.asarray([7, 8])] * COUNT,
        )
        files.table(stage).parent.mkdir(parents=True, exist_ok=True)
        write_frozen(table, files.table(stage))
    return config


def test_every_row_of_the_paper_has_ours_and_every_pair_is_of_two_rows() -> None:
    for number, table in TABLES.items():
        assert set(ROWS[number]) == {(row.task, row.name) for row in table.rows}
        assert {(task, name) for task, one, other in PAIRS[number] for name in (one, other)} <= set(ROWS[number])
        assert all(len(row.values) == len(COLUMNS) for row in table.rows)


def test_trials_have_names_of_their_own() -> None:
    trials = {trial for number in ROWS for trial in trials_of(number)}
    assert len({trial.key for trial in trials}) == len(trials) == 19


def test_a_grid_trains_at_the_rate_that_is_asked_for_and_keeps_it_apart(
    planted: ReproduceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, float]] = []

    def fake(files: object, trial: Trial, seed: int) -> TrialResult:
        trained.append((trial.rank, schedule_of(trial).learning_rate))
        labels = np.tile([0, 1], 20)
        return TrialResult(
            num_parameters=2, num_trained=1, seconds=0.0, test_labels=labels, test_scores=labels + 0.1 * trial.rank,
            test_sources=np.arange(40).astype(str), validation_labels=labels, validation_scores=labels.astype(float),
            video_ids=np.arange(40).astype(str),
        )  # fmt: skip

    monkeypatch.setattr(run_module, "run_trial", fake)
    monkeypatch.setattr(run_module, "prepare_stock", lambda *_, **__: None)
    one = replace(planted, workers=1, seeds=1)
    for rate in (None, 2e-4):
        grid = lora_grid(one, (3, 5), (8,), lambda _: None, rate=rate)
        assert set(grid) == {(3, 8), (5, 8)}
    assert trained == [(3, 2e-3), (5, 2e-3), (3, 2e-4), (5, 2e-4)]


def test_ranks_that_are_none_are_refused() -> None:
    app = typer.Typer()
    reproduce_cli.register(app)
    for wrong in ("a", "0", "16,-2"):
        found = CliRunner().invoke(app, ["reproduce", "grid", "--data", "none.parquet", "--ranks", wrong])
        assert found.exit_code == 2
        assert "--ranks: expected" in found.output


def test_a_planted_signal_is_found_by_the_rows_that_hear_and_nothing_is_trained_twice(
    planted: ReproduceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    report = reproduce_tables(planted, said.append)[0]
    hearing, deaf = (report.figures["ucc", name].values["AUC"].estimate for name in ("Base", "SigLIP"))
    assert hearing > 0.95
    assert hearing > deaf + 0.05
    pair = next(c for c in report.comparisons if (c.row, c.other, c.column) == ("Base", "SigLIP", "R@P90"))
    assert pair.ours.estimate > 0
    assert pair.agrees
    assert "Base − SigLIP (ucc)" in report.to_markdown()

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(run_module, "run_trial", never)
    again = reproduce_tables(planted, said.append)[0]
    assert again.to_dict() == report.to_dict()
    assert "10 trainings wanted, 10 done before" in said


def test_smaller_shares_of_the_data_lie_inside_larger_ones_by_whole_sources(planted: ReproduceConfig) -> None:
    stock = Stock.open(stock_files(planted), "base")
    rows = {share: set(stock.examples("train", share=share).rows.tolist()) for share in (0.2, 0.4, 1.0)}
    assert rows[0.2] < rows[0.4] < rows[1.0]
    assert len(rows[0.2]) == pytest.approx(0.2 * len(rows[1.0]), abs=2)
    sources = set(stock.sources[sorted(rows[0.2])])
    assert {row for row in rows[1.0] if stock.sources[row] in sources} == rows[0.2]


def _result(labels: list[int], scores: list[float]) -> TrialResult:
    truth, values = np.asarray(labels), np.asarray(scores)
    names = np.asarray([f"v{n}" for n in range(len(labels))])
    return TrialResult(
        num_parameters=10, num_trained=1, seconds=0.0, test_labels=truth, test_scores=values, test_sources=names,
        validation_labels=truth, validation_scores=values, video_ids=names,
    )  # fmt: skip


def test_a_cascade_escalates_what_the_base_reaches_its_precision_on() -> None:
    """By hand: precisions of the base from its top score down are 1, 1/2, 2/3, 1/2, 3/5, 1/2."""
    labels = [1, 0, 1, 0, 1, 0]
    base, large = _result(labels, [0.9, 0.8, 0.7, 0.4, 0.2, 0.1]), _result(labels, [0.9, 0.1, 0.8, 0.2, 0.7, 0.3])
    for p_base, share, recall in ((50, 1.0, 1.0), (60, 5 / 6, 1.0), (66, 3 / 6, 2 / 3), (90, 1 / 6, 1 / 3)):
        row = CascadeRow(base=FULL_BASE, large=FULL_MLLM, p_base_percent=p_base, prevalence=None)
        scores = scores_of_cascade(row, [base], [large])
        assert scores.qps_ratio_S == pytest.approx([share])
        assert figures_of(scores, num_samples=5).values["R@P90"].estimate == pytest.approx(recall)


def test_shares_and_precisions_are_transported_to_the_wished_prevalence() -> None:
    """By hand: the threshold 0.7 catches 2 of 3 positives and 1 of 3 negatives."""
    labels = [1, 0, 1, 0, 1, 0]
    base = _result(labels, [0.9, 0.8, 0.7, 0.4, 0.2, 0.1])
    wanted = 0.1 * (2 / 3) / (0.1 * (2 / 3) + 0.9 * (1 / 3))
    row = CascadeRow(base=FULL_BASE, large=FULL_MLLM, p_base_percent=None, prevalence=0.1)
    assert scores_of_cascade(row, [base], [base]).qps_ratio_S == pytest.approx([1.0])
    cut = CascadeRow(base=FULL_BASE, large=FULL_MLLM, p_base_percent=int(100 * wanted), prevalence=0.1)
    assert scores_of_cascade(cut, [base], [base]).qps_ratio_S == pytest.approx([0.1 * 2 / 3 + 0.9 / 3])


def test_a_difference_is_paired_and_its_sign_is_row_minus_other() -> None:
    rng, labels = np.random.default_rng(0), np.arange(200) % 2
    good, poor = labels + rng.standard_normal(200), 0.3 * labels + rng.standard_normal(200)
    rows = [
        RowScores(
            labels_N=labels, sources_N=np.arange(200).astype(str), scores_SN=np.stack([scores, scores]),
            f1_thresholds_S=np.asarray([0.5, 0.5]), num_parameters=1,
        )
        for scores in (good, poor)
    ]  # fmt: skip
    gap = difference(rows[0], rows[1], "R@P70", num_samples=100)
    assert gap.low > 0
    assert difference(rows[0], rows[0], "R@P70", num_samples=20).estimate == 0.0


def test_what_is_missing_is_said_before_any_training(tmp_path: Path) -> None:
    data = _manifest(tmp_path)
    with pytest.raises(CheckpointError, match="warm-base"):
        reproduce_tables(ReproduceConfig(data=data, folder=tmp_path / "w", foundation=tmp_path / "none"), print)
    with pytest.raises(CheckpointError, match="smaller audio tower"):
        Foundation(folder=tmp_path).small_audio("icd")
    with pytest.raises(UsageError, match="tables"):
        ReproduceConfig(data=data, folder=tmp_path, tables=(7,))
    both = Manifest(entries=(Entry(video_id="a", path=tmp_path / "a.mp4", labels={"icd": 0, "ucc": 1}),))
    write_manifest(both, tmp_path / "both.parquet")
    with pytest.raises(ManifestError, match="exactly one"):
        stock_files(ReproduceConfig(data=tmp_path / "both.parquet", folder=tmp_path))
