"""Preference alignment: the loss in closed form and as trl has it, pairs that are checked, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_samples import AVLM, seen_and_heard, small_avlm

from tidegate.corpus.manifest import Entry
from tidegate.errors import ConfigError, ManifestError
from tidegate.training.continuation import PADDING, log_probabilities
from tidegate.training.prefer import (
    Pair,
    PreferConfig,
    dpo_losses,
    pairs_from_truth,
    prefer,
    preference_figures,
    read_pairs,
)
from tidegate.training.recipes import OptimiserConfig

torch.set_num_threads(1)


def test_loss_is_the_closed_form() -> None:
    policy, reference = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    margin = 0.3 * ((policy - reference)[:, 0] - (policy - reference)[:, 1]).numpy()
    np.testing.assert_allclose(dpo_losses(policy, reference, 0.3).numpy(), np.log1p(np.exp(-margin)))
    np.testing.assert_allclose(dpo_losses(reference, reference, 0.3).numpy(), np.log(2))


def test_figures_say_what_the_model_prefers_and_what_it_has_gained() -> None:
    policy, reference = torch.tensor([[-1.0, -2.0], [-5.0, -4.0]]), torch.tensor([[-1.0, -1.0], [-9.0, -4.0]])
    figures = preference_figures(policy, reference, 0.5)
    assert figures["chosen_more_probable"] == 0.5
    assert (figures["reward_accuracy"], figures["reward_margin"]) == (1.0, pytest.approx(0.5 * (1.0 + 4.0) / 2))


@pytest.mark.parametrize("write_weight", [0.0, 1.0])
def test_model_learns_to_prefer_the_right_text_to_the_wrong_one(write_weight: float) -> None:
    """Bright clips are to be removed, dark ones kept: the same two texts, swapped."""
    model, processor = small_avlm(replace(AVLM, language_head=True))
    texts = ("wait and see", "good morning")

    def pairs(examples: Any) -> list[Pair]:
        return [
            Pair(video_id=video_id, chosen=texts[label], rejected=texts[1 - label])
            for video_id, label in zip(examples.table.video_ids, examples.labels.tolist(), strict=True)
        ]

    train, held = seen_and_heard(48, 1), seen_and_heard(24, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = PreferConfig(
        beta=0.5, write_weight=write_weight, optimiser=OptimiserConfig(epochs=6, batch_size=8, learning_rate=1e-2)
    )
    result = prefer(model, processor, (pairs(train), train.table), (pairs(held), held.table), config)
    assert result.before["loss"] == pytest.approx(np.log(2))
    assert result.after["reward_accuracy"] > 0.9
    assert result.after["loss"] < 0.4
    assert result.losses[-1] < result.losses[0]
    resting = ("head.", "vision_language.vision_tower.", "audio.encoder.")
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before if name.startswith(resting))


def test_model_without_a_language_head_is_refused() -> None:
    model, processor = small_avlm()
    with pytest.raises(ConfigError, match="language head"):
        prefer(model, processor, ([], seen_and_heard(2, 1).table), ([], seen_and_heard(2, 1).table), PreferConfig())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "line 2"),
        (json.dumps({"video_id": "a", "chosen": "x"}), "rejected"),
        (json.dumps({"video_id": "a", "chosen": "x", "rejected": 3}), "texts"),
        (json.dumps({"video_id": "a", "chosen": "x", "rejected": "x"}), "different"),
        ("1" * 70_000, "line 2"),
    ],
)
def test_wrong_pair_is_refused_by_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"video_id": "a", "chosen": "x", "rejected": "y"}) + "\n" + line + "\n")
    with pytest.raises(ManifestError, match=words) as caught:
        read_pairs(path)
    assert "pairs.jsonl: line 2" in str(caught.value)


def entry(number: int, kind: str | None, clause: str | None) -> Entry:
    truth = {"kind": kind, "clause": clause}
    return Entry(video_id=f"v{number}", path=Path("/x"), labels={"icd": int(kind is not None)}, truth=truth)


def test_pairs_of_the_synthetic_truth_choose_the_true_verdict_and_never_reject_it() -> None:
    entries = [entry(n, "sound", "alarming_sounds") if n % 2 else entry(n, None, None) for n in range(60)]
    pairs = pairs_from_truth(entries, "icd")
    assert {pair.chosen for pair in pairs[1::2]} == {"alarming sounds in sound: remove"}
    assert {pair.chosen for pair in pairs[::2]} == {"nothing breaks a rule: keep"}
    assert all(pair.chosen != pair.rejected for pair in pairs)
    wrong = [pair.rejected for pair in pairs[1::2]]
    assert 0.2 < np.mean([text.endswith("keep") for text in wrong]) < 0.9
    with pytest.raises(ManifestError, match="truth"):
        pairs_from_truth([Entry(video_id="v", path=Path("/x"), labels={"icd": 1})], "icd")


@pytest.mark.long
def test_loss_is_that_of_trl(tmp_path: Path) -> None:
    """A causal language model of ``transformers``, its batch and its loss by ``trl.DPOTrainer``."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from trl import DPOConfig, DPOTrainer

    from tidegate.models.tokens import build_tokenizer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(["good morning", "wait and see"], 300), pad_token="<pad>", eos_token="</s>"
    )
    settings = Qwen2Config(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    policy, reference = Qwen2ForCausalLM(settings), Qwen2ForCausalLM(settings)
    rows = [{"prompt": "say ", "chosen": "good morning", "rejected": "wait"}] * 2
    rows += [{"prompt": "what now? ", "chosen": "see", "rejected": "wait and see"}]
    arguments = DPOConfig(
        output_dir=str(tmp_path), beta=0.3, per_device_train_batch_size=3, report_to=[], use_cpu=True, bf16=False,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = float(trainer.compute_loss(trainer.model, dict(batch)))

    def columns(model: Any) -> torch.Tensor:
        ids, shown = batch["input_ids"], batch["attention_mask"]
        logits = model(input_ids=ids, attention_mask=shown).logits[:, :-1]
        targets = torch.where(batch["completion_mask"].bool(), ids, PADDING)[:, 1:]
        return log_probabilities(logits, targets).reshape(2, -1).T

    with torch.no_grad():
        ours = dpo_losses(columns(policy), columns(reference), 0.3).mean()
    assert float(ours) == pytest.approx(theirs, rel=1e-5)
