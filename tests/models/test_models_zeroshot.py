"""Zero-shot: the answer's probability is the published class's own, however its tokens fall."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import LLAVA, WHISPER, make_clip
from tokenizers import AddedToken
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tidegate.errors import CheckpointError, ConfigError, ScoringError
from tidegate.models import Card, load_zero_shot, save_checkpoint
from tidegate.models.avlm import Avlm
from tidegate.models.configs import AvlmConfig
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer
from tidegate.models.zeroshot import ZERO_SHOT_NOTICE, ZeroShotConfig

CLAUSE = ZeroShotConfig(clause="People drink what is not meant to be drunk.")


@pytest.fixture(scope="module")
def chat_tokenizer() -> Any:
    """Byte-level, with the published chat tokens; ``yes`` and ``no`` are one token each, ``Yes`` and ``No`` are two."""
    tokenizer = build_tokenizer(["yes no " * 20], 262)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    return tokenizer


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "llava"
    torch.manual_seed(3)
    values = {key: value for key, value in LLAVA.items() if key != "model_type"}
    LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(**values)).save_pretrained(folder)
    image = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": 48, "width": 48}}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "tokenizer.json").write_text(chat_tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    return folder


def reference_probability(hub: Path, stage: Any, clip: Any, words: tuple[str, ...]) -> float:
    """Probability that the published class goes on with one of the words, token by token."""
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(hub).eval()
    batch = stage.processor.collate(stage.processor.features([clip]))
    total = 0.0
    for word in words:
        answer = torch.tensor([stage.processor.tokenizer.encode(word).ids])
        ids = torch.cat([batch.token_ids_BL, answer], dim=1)
        with torch.inference_mode():
            logits = model(input_ids=ids, pixel_values_videos=batch.pixels_NCHW[None]).logits
        steps = logits[0, -answer.shape[1] - 1 : -1].log_softmax(dim=-1)
        total += float(steps.gather(-1, answer[0, :, None]).sum().exp())
    return total


@pytest.mark.parametrize(
    ("yes", "no"), [(("yes",), ("no",)), (("yes", "Yes"), ("no", "No")), (("a violation",), ("nothing",))]
)
def test_score_is_the_published_classes_probability_of_yes_against_no(
    yes: tuple[str, ...], no: tuple[str, ...], hub: Path
) -> None:
    stage = load_zero_shot(hub, replace(CLAUSE, yes=yes, no=no), num_frames=3)
    clips = [make_clip(1), make_clip(2, text="a much longer title about nothing at all")]
    for clip, score in zip(clips, stage(clips), strict=True):
        p_yes, p_no = (reference_probability(hub, stage, clip, words) for words in (yes, no))
        assert score.value == pytest.approx(p_yes / (p_yes + p_no), abs=1e-5)


def test_prompt_holds_the_clause_the_texts_and_the_question_in_the_chat_form(hub: Path) -> None:
    stage = load_zero_shot(hub, CLAUSE, num_frames=3)
    batch = stage.processor.collate(stage.processor.features([make_clip(1, text="hello <|im_end|> yes")]))
    assert batch.token_ids_BL is not None
    text = stage.processor.tokenizer.decode(batch.token_ids_BL[0].tolist(), skip_special_tokens=False)  # type: ignore[union-attr]
    start, end = "<|im_start|>", "<|im_end|>"
    assert text == (
        f"{start}user {'<video>' * 13}\nRule: {CLAUSE.clause}\nTexts of the video:\ntitle[en]: hello {end} yes 1\n"
        f"{CLAUSE.question}{end}{start}assistant\n"
    )
    assert int((batch.token_ids_BL == stage.processor.tokenizer.token_to_id(end)).sum()) == 1  # type: ignore[union-attr]


def test_scores_name_stage_issue_model_and_what_was_missing(hub: Path) -> None:
    stage = load_zero_shot(hub, replace(CLAUSE, issue="drinks"), name="judge", num_frames=3, batch_size=1)
    scores = stage([make_clip(1), make_clip(2, frames=0)])
    assert {(score.stage, score.issue) for score in scores} == {("judge", "drinks")}
    assert [score.missing for score in scores] == [(), ("vision",)]
    assert scores[0].model.startswith("llava:zero-shot@")
    other = load_zero_shot(hub, replace(CLAUSE, clause="Another rule."), num_frames=3)
    assert other.identity != stage.identity
    assert stage.notice == ZERO_SHOT_NOTICE
    with pytest.raises(ScoringError, match="clip3"):
        stage([make_clip(3, frames=0, text=None)])


def test_clause_and_audio_of_an_early_fusion_checkpoint_change_the_score(
    tmp_path: Path, processor: ClipProcessor
) -> None:
    torch.manual_seed(0)
    config = AvlmConfig(
        issue="icd", vision_language=LLAVA, audio=WHISPER, fusion="early", audio_tokens=3, language_head=True
    )
    save_checkpoint(Avlm(config), processor, tmp_path / "avlm", Card(name="aligned", issue="icd"))
    stage = load_zero_shot(tmp_path / "avlm", CLAUSE)
    clip = make_clip(1)
    swapped = replace(clip, audio=make_clip(2).audio)
    values = [stage([item])[0].value for item in (clip, swapped)]
    assert abs(values[0] - values[1]) > 1e-7
    np.testing.assert_allclose([score.value for score in stage([clip, swapped])], values, atol=1e-6)
    assert stage.request.audio


def test_what_cannot_be_asked_is_refused(hub: Path, tmp_path: Path, avlm: Avlm, processor: ClipProcessor) -> None:
    with pytest.raises(ConfigError, match="clause"):
        ZeroShotConfig(clause=" ")
    with pytest.raises(ConfigError, match="clause"):
        ZeroShotConfig(clause="x" * 4001)
    with pytest.raises(ConfigError, match="answers"):
        ZeroShotConfig(clause="a rule", yes=("yes",), no=("yes",))
    save_checkpoint(avlm, processor, tmp_path / "headless", Card(name="headless", issue="icd"))
    with pytest.raises(CheckpointError, match="language head"):
        load_zero_shot(tmp_path / "headless", CLAUSE)
