"""LoRA trains what it should and nothing else, its folder is peft's, merging changes no score; exact accumulation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from training_samples import AVLM, VISION_ONLY, seen_and_heard, small_avlm

from tidegate.errors import CheckpointError, ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.multitower import MultiTower
from tidegate.training.engine import OneProcess
from tidegate.training.loop import fit, score_rows
from tidegate.training.lora import Adapted, adapt, freeze_towers, load_adapter, merged, save_adapter
from tidegate.training.recipes import AdapterConfig, OptimiserConfig

torch.set_num_threads(1)
CONFIG = OptimiserConfig(epochs=1, batch_size=8, learning_rate=1e-2)


def trained(rank: int = 4, *, towers: bool = False) -> tuple[Adapted, dict[str, torch.Tensor]]:
    """An adapted model after a few steps, and the weights that it started from."""
    model, processor = small_avlm()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = adapt(model, AdapterConfig(rank=rank, alpha=2 * rank), towers=towers)
    fit(model, processor, seen_and_heard(24, 1), seen_and_heard(8, 2), CONFIG)
    return adapted, before


def changed(model: Avlm, before: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the model that are not what they were."""
    after = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    names = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    return {".".join(name.split(".")[:2]) if name.startswith("vision") else name.split(".")[0] for name in names}


def scores(model: Avlm) -> np.ndarray:
    return score_rows(model, small_avlm()[1], seen_and_heard(12, 3).table, range(12))


@pytest.mark.parametrize(
    ("rank", "towers", "expected"),
    [
        (0, False, {"head"}),
        (0, True, {"head"}),
        (4, False, {"head", "audio"}),  # of the audio tower only the learnt stand-in for missing audio
        (
            4,
            True,
            {"head", "audio", "vision_language.vision_tower", "vision_language.multi_modal_projector"}
            | {"vision_language.image_newline"},
        ),
    ],
)
def test_only_what_was_asked_for_is_trained(rank: int, towers: bool, expected: set[str]) -> None:
    adapted, before = trained(rank, towers=towers)
    found = changed(adapted.model, before)
    assert found <= expected
    assert {"head"} | (expected if towers and rank else set()) <= found | {"audio"}
    encoder = [name for name in before if name.startswith("audio.encoder.") and "embed_positions" not in name]
    same = [torch.equal(before[name], adapted.model.state_dict()[name]) for name in encoder]
    assert all(same) if not (towers and rank) else not any(same)


def test_adapter_sits_in_every_linear_layer_of_the_language_model_and_nowhere_else() -> None:
    model, _ = small_avlm()
    adapt(model, AdapterConfig(rank=2, alpha=4))
    inside = {name.split(".lora_A")[0] for name in model.state_dict() if ".lora_A" in name}
    assert len(inside) == 2 * 7  # layers x (q, k, v, o, gate, up, down)
    assert all(name.startswith("vision_language.language_model.layers.") for name in inside)


def test_scores_change_with_training_and_survive_saving_loading_and_merging(tmp_path: Path) -> None:
    adapted, _ = trained()
    expected = scores(adapted.model)
    assert np.abs(expected - scores(small_avlm()[0])).max() > 1e-3
    save_adapter(adapted, tmp_path / "adapter")
    loaded = load_adapter(small_avlm()[0], tmp_path / "adapter")
    np.testing.assert_array_equal(scores(loaded.model), expected)
    assert (loaded.config.rank, loaded.config.alpha) == (4, 8)
    plain = merged(loaded)
    np.testing.assert_allclose(scores(plain), expected, atol=1e-6)
    assert not any("lora" in name for name in plain.state_dict())


def test_folder_is_read_by_peft_alone(tmp_path: Path) -> None:
    adapted, _ = trained()
    save_adapter(adapted, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
    }
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["r"] == 4
    other, processor = small_avlm()
    theirs = peft.PeftModel.from_pretrained(other.vision_language, str(tmp_path / "adapter")).eval()
    batch = processor.collate([seen_and_heard(2, 3).table[row] for row in range(2)])
    with torch.inference_mode():
        inputs = other.eval().inputs(batch)
        given = {"inputs_embeds": inputs.embeds_BLD, "attention_mask": inputs.mask_BL}
        mine = adapted.model.vision_language.language_model(**given, position_ids=inputs.positions())
        hidden = theirs.base_model.model.language_model(**given, position_ids=inputs.positions())
    torch.testing.assert_close(hidden.last_hidden_state, mine.last_hidden_state)


def test_head_alone_is_saved_and_loaded_without_an_adapter(tmp_path: Path) -> None:
    adapted, _ = trained(rank=0)
    save_adapter(adapted, tmp_path / "head")
    assert not (tmp_path / "head/adapter_config.json").exists()
    loaded = load_adapter(small_avlm()[0], tmp_path / "head")
    np.testing.assert_array_equal(scores(loaded.model), scores(adapted.model))


def test_adapter_that_does_not_fit_or_is_cut_short_is_refused(tmp_path: Path) -> None:
    adapted, _ = trained()
    save_adapter(adapted, tmp_path / "adapter")
    head = tmp_path / "adapter/head.safetensors"
    whole = head.read_bytes()
    head.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match="head"):
        load_adapter(small_avlm()[0], tmp_path / "adapter")
    save_file({"head.weight": torch.zeros(2, 5)}, head)
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        load_adapter(small_avlm()[0], tmp_path / "adapter")
    head.write_bytes(whole)
    weights = tmp_path / "adapter/adapter_model.safetensors"
    wrong = {name: torch.zeros(3, 3) for name in load_file(weights)}
    save_file(wrong, weights)
    with pytest.raises(CheckpointError, match="adapter"):
        load_adapter(small_avlm()[0], tmp_path / "adapter")


def test_adapter_on_a_model_without_language_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="MultiTower"):
        adapt(MultiTower(VISION_ONLY), AdapterConfig())


@pytest.mark.parametrize(("rank", "alpha"), [(-1, 4), (0, 4), (4, 0)])
def test_rank_and_alpha_that_cannot_be_are_refused(rank: int, alpha: int) -> None:
    with pytest.raises(ConfigError, match="rank and alpha"):
        AdapterConfig(rank=rank, alpha=alpha)


def test_frozen_towers_do_not_change_while_the_language_model_does() -> None:
    model, processor = small_avlm()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    freeze_towers(model)
    fit(model, processor, seen_and_heard(16, 1), seen_and_heard(8, 2), CONFIG)
    assert changed(model, before) >= {"head", "vision_language.language_model"}
    assert "vision_language.vision_tower" not in changed(model, before)


class Watched(OneProcess):
    """Keeps the gradients of the last step."""

    def step(self, *arguments: Any) -> torch.Tensor:
        total = super().step(*arguments)
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in self.objective.named_parameters()
            if parameter.grad is not None
        }
        return total


def gradients(micro: int | None, *, recompute: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step."""
    model, processor = small_avlm(replace(AVLM, more_issues=("ucc",)))
    if recompute:
        model.gradient_checkpointing(True)
    config = replace(CONFIG, batch_size=16, micro_batch_size=micro, positive_weight=3.0, label_smoothing=0.1)
    engine = Watched()
    result = fit(
        model, processor, seen_and_heard(16, 1, issues=2), seen_and_heard(8, 2, issues=2), config, engine=engine
    )
    return result.history[0]["loss"], engine.gradients


@pytest.mark.parametrize("micro", [1, 5])
def test_accumulated_gradients_are_those_of_a_big_batch(micro: int) -> None:
    """Weighted classes, missing labels: a mean of micro-batches' means would be another number."""
    loss, weights = gradients(None)
    small_loss, small_weights = gradients(micro)
    assert small_loss == pytest.approx(loss, rel=1e-6)
    for name, tensor in weights.items():
        torch.testing.assert_close(small_weights[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_recomputed_activations_give_the_same_gradients() -> None:
    loss, weights = gradients(None)
    again, recomputed = gradients(None, recompute=True)
    assert again == pytest.approx(loss, rel=1e-6)
    assert all(torch.allclose(recomputed[name], tensor, atol=1e-6) for name, tensor in weights.items())


def test_bfloat16_is_used_where_it_is_asked_for() -> None:
    losses = {}
    for precision in ("auto", "float32", "bfloat16"):
        model, processor = small_avlm()
        config = replace(CONFIG, precision=precision)
        losses[precision] = fit(model, processor, seen_and_heard(8, 1), seen_and_heard(8, 2), config).history[0]["loss"]
        assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    assert losses["auto"] == losses["float32"]  # a processor: bfloat16 does not pay there
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
