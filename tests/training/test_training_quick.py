"""The shorter forward pass of frozen training: the same scores and gradients as the whole one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tidegate.models.avlm import Avlm
from tidegate.models.build import build_model
from tidegate.models.configs import AvlmConfig, ProcessorConfig
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer
from tidegate.training.examples import Examples, Shard, by_length, prepared_steps
from tidegate.training.frozen import FrozenProcessor, FrozenTable, frozen_towers
from tidegate.training.loop import score_rows
from tidegate.training.lora import adapt
from tidegate.training.quick import given_tokens, project, quick
from tidegate.training.recipes import AdapterConfig, whisper_encoder

LLAVA: dict[str, Any] = {
    "model_type": "llava_onevision",
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 4, "vision_use_head": False,
    },
    "text_config": {
        "model_type": "qwen2", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
    },
    "video_token_index": 3,
    "image_token_index": 3,
}  # fmt: skip
COUNT = 13


def _processor() -> FrozenProcessor:
    config = ProcessorConfig(
        modalities=("vision", "audio", "text"), num_frames=2, image_size=16, audio_seconds=2, num_mel_bins=16,
        video_tokens_per_frame=4, prompt_suffix="</s>",
    )  # fmt: skip
    tokenizer = build_tokenizer([["one two three"]], 300)
    return FrozenProcessor(config, ClipProcessor(config, tokenizer).tokenizer)


def _model(fusion: str, rank: int) -> Avlm:
    torch.manual_seed(0)
    model = build_model(
        AvlmConfig(issue="icd", vision_language=LLAVA, audio=whisper_encoder(32, 1, 2, 16), fusion=fusion)
    )  # type: ignore[arg-type]
    assert isinstance(model, Avlm)
    adapt(model, AdapterConfig(rank=rank, alpha=2 * rank))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name or name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def _table() -> FrozenTable:
    """Clips of every length; some without frames, audio or text."""
    rng = np.random.default_rng(0)
    return FrozenTable(
        video_ids=tuple(f"v{row}" for row in range(COUNT)),
        patches_NTPD=rng.standard_normal((COUNT, 2, 16, 32)).astype(np.float16),
        num_frames_N=np.asarray([2, 0, 1] * 4 + [2]),
        audio_ND=rng.standard_normal((COUNT, 32)).astype(np.float32),
        has_audio_N=np.arange(COUNT) % 4 > 0,
        token_ids=[rng.integers(5, 250, row % 7) for row in range(COUNT)],
    )


def _run(fusion: str, rank: int, *, short: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], np.ndarray]:
    model, table, processor = _model(fusion, rank), _table(), _processor()
    with ExitStack() as stack:
        stack.enter_context(frozen_towers(model))
        if short:
            table = project(model, table)
            stack.enter_context(quick(model))
            stack.enter_context(given_tokens(model))
        logits_BK = model(processor.collate([table[row] for row in range(COUNT)]))
        torch.nn.functional.cross_entropy(logits_BK, torch.arange(COUNT) % 2).backward()
        scores = score_rows(model, processor, table, range(COUNT), batch_size=4)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits_BK.detach(), gradients, scores


@pytest.mark.parametrize(("fusion", "rank"), [("late", 2), ("late", 64), ("early", 8), ("late", 0)])
def test_scores_and_gradients_are_those_of_the_whole_forward_pass(fusion: str, rank: int) -> None:
    logits_BK, gradients, scores = _run(fusion, rank, short=False)
    short_BK, short_gradients, short_scores = _run(fusion, rank, short=True)
    assert torch.allclose(logits_BK, short_BK, atol=1e-5)
    assert np.allclose(scores, short_scores, atol=1e-5)
    assert gradients.keys() == short_gradients.keys()
    assert any(bool(gradient.abs().sum() > 0) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, short_gradients[name], atol=1e-5), name


def test_the_model_is_as_before_once_the_short_forward_pass_is_closed() -> None:
    model, table, processor = _model("late", 2), _table(), _processor()
    with frozen_towers(model):
        before = score_rows(model, processor, table, range(COUNT))
        with quick(model), given_tokens(model):
            pass
        assert np.array_equal(before, score_rows(model, processor, table, range(COUNT)))
    assert not any("forward" in vars(module) for module in model.modules())


def test_clips_of_a_step_are_split_by_length_and_none_is_lost() -> None:
    table = replace(_table(), num_frames_N=np.full(COUNT, 2))
    examples = Examples(table=table, rows=np.arange(COUNT), labels=np.zeros(COUNT, dtype=np.int64))
    steps = prepared_steps(examples, _processor(), [np.arange(COUNT)], pieces=3, shard=Shard(), change=None, key=(0, 0))
    pieces = next(iter(steps))
    assert sorted(name for piece in pieces for name in piece.video_ids) == sorted(table.video_ids)
    widths = [piece.batch.token_ids_BL.shape[1] for piece in pieces if piece.batch.token_ids_BL is not None]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    assert by_length(table, np.arange(COUNT)).tolist() == sorted(range(COUNT), key=lambda row: row % 7)
