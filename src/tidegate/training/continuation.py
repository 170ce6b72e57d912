"""Texts that an AVLM continues a prompt with: their losses, their log-probabilities, and greedy decoding.

Enters: an ``Avlm`` with a language head, a batch of prompts (frames and audio included) and the token ids that are to
follow. Leaves: logits of those tokens. The last position of a prompt, an audio token under early fusion, gives the
first of them. Used to transcribe and describe (audio alignment) and to weigh rationales (preference alignment).

Shape legend: B clips, L prompt positions, S continuation tokens, D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tidegate.models.avlm import Avlm, LanguageInputs
from tidegate.models.batch import Batch

__all__ = ["PADDING", "continuation_logits", "greedy", "log_probabilities", "pad_continuations", "summed_loss"]

PADDING = -100
"""Target where a shorter continuation has ended."""


def pad_continuations(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids as ``(B, S)``, shorter rows filled with ``PADDING`` on the right."""
    out = torch.full((len(rows), max(map(len, rows))), PADDING)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = torch.tensor(list(row))
    return out


def _embedded(model: Avlm, ids: Tensor) -> Tensor:
    embeds: Tensor = model.vision_language.get_input_embeddings()(ids.clamp(min=0))
    return embeds


def continuation_logits(model: Avlm, batch: Batch, targets_BS: Tensor) -> Tensor:
    """Logits ``(B, S, V)`` of each continuation token, given the prompt and the tokens before it."""
    inputs = model.inputs(batch)
    before_BSD = _embedded(model, targets_BS[:, :-1]).to(inputs.embeds_BLD.dtype)
    shown_BS = (targets_BS[:, :-1] != PADDING).to(inputs.mask_BL.dtype)
    whole = LanguageInputs(
        embeds_BLD=torch.cat([inputs.embeds_BLD, before_BSD], dim=1),
        mask_BL=torch.cat([inputs.mask_BL, shown_BS], dim=1),
    )
    hidden_BSD = model.states(whole)[:, inputs.embeds_BLD.shape[1] - 1 :]
    return model.token_logits(hidden_BSD)


def summed_loss(logits_BSV: Tensor, targets_BS: Tensor) -> Tensor:
    """Cross-entropy summed over all continuation tokens."""
    return functional.cross_entropy(
        logits_BSV.float().flatten(0, 1), targets_BS.flatten(), ignore_index=PADDING, reduction="sum"
    )


def log_probabilities(logits_BSV: Tensor, targets_BS: Tensor) -> Tensor:
    """Log-probability of each whole continuation ``(B,)``: the sum over its tokens."""
    each_BS = functional.cross_entropy(
        logits_BSV.float().transpose(1, 2), targets_BS, ignore_index=PADDING, reduction="none"
    )
    return -each_BS.sum(dim=1)


@torch.inference_mode()
def greedy(model: Avlm, batch: Batch, *, end_id: int, max_tokens: int) -> list[list[int]]:
    """The most probable next token, again and again, until ``end_id`` (left out) or ``max_tokens``."""
    inputs = model.inputs(batch)
    mask_BL, positions_B1 = inputs.mask_BL, inputs.positions()[:, -1:]
    output: Any = model.vision_language.language_model(
        inputs_embeds=inputs.embeds_BLD, attention_mask=mask_BL, position_ids=inputs.positions(), use_cache=True
    )
    chosen: list[Tensor] = []
    going_B = torch.ones(batch.size, dtype=torch.bool, device=mask_BL.device)
    while len(chosen) < max_tokens:
        next_B = model.token_logits(output.last_hidden_state[:, -1]).argmax(dim=-1)
        chosen.append(torch.where(going_B, next_B, end_id))
        going_B = going_B & (next_B != end_id)
        if not bool(going_B.any()) or len(chosen) == max_tokens:
            break
        mask_BL = torch.cat([mask_BL, mask_BL.new_ones(batch.size, 1)], dim=1)
        positions_B1 = positions_B1 + 1
        output = model.vision_language.language_model(
            inputs_embeds=_embedded(model, chosen[-1][:, None]).to(inputs.embeds_BLD.dtype),
            attention_mask=mask_BL,
            position_ids=positions_B1,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
    rows = torch.stack(chosen, dim=1).tolist()
    return [row[: row.index(end_id)] if end_id in row else row for row in rows]
