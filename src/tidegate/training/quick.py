"""A frozen AVLM without what its verdict does not need: the same scores and gradients, in less than half the time.

Enters: an ``Avlm``, with an adapter or without. Leaves: the same model, whose forward pass is shorter while a context
is open. Four things are left out, and none is approximated:

1. of the language model's last layer only the last token is computed: it alone is read (keys and values of all);
2. prompts stand at the left, so that causal attention alone keeps tokens from padding, and half of it is not computed;
3. an adapter's matrices are added to the layer's once a step, W + s B A; only their own gradients are of low rank
   where that is cheaper. Of a tiny language model rank 512 is wider than the layers themselves;
4. what the frozen visual projector makes of a clip is computed once (``project``), instead of once an epoch.

Shape legend: B clips, N clips of a table or frames of a batch, H heads, P positions of a frame, L tokens, D features,
R rank, I and O inputs and outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, apply_rotary_pos_emb

from tidegate.models.avlm import Avlm
from tidegate.models.batch import Batch
from tidegate.models.build import Model
from tidegate.training.frozen import FrozenTable

__all__ = ["given_tokens", "project", "quick"]


class _AllPositions:
    """Keys and values of all positions, where a layer that is given one of them asks for its cache."""

    def __init__(self, keys_BHLD: Tensor, values_BHLD: Tensor) -> None:
        self.pair = keys_BHLD, values_BHLD

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What the cache would hold."""
        return self.pair


def _at_last(layer: Any, hidden_BLD: Tensor, turns: tuple[Tensor, Tensor], lengths_B: Tensor) -> Tensor:
    """``layer`` at the last token of each row ``(B, 1, D)``, which attends to all of the row's tokens."""
    cosine_1LD, sine_1LD = turns
    attention, rows_B = layer.self_attn, torch.arange(len(hidden_BLD))
    normed_BLD = layer.input_layernorm(hidden_BLD)
    shape = (*hidden_BLD.shape[:-1], -1, attention.head_dim)
    keys_BHLD = attention.k_proj(normed_BLD).view(shape).transpose(1, 2)
    values_BHLD = attention.v_proj(normed_BLD).view(shape).transpose(1, 2)
    _, keys_BHLD = apply_rotary_pos_emb(keys_BHLD[:, :, :1], keys_BHLD, cosine_1LD, sine_1LD)
    seen_BL = torch.arange(hidden_BLD.shape[1]) < lengths_B[:, None]
    out_B1D: Tensor = layer(
        hidden_BLD[rows_B, lengths_B - 1].unsqueeze(1),
        attention_mask=seen_BL[:, None, None],
        position_embeddings=(cosine_1LD[0, lengths_B - 1].unsqueeze(1), sine_1LD[0, lengths_B - 1].unsqueeze(1)),
        past_key_values=_AllPositions(keys_BHLD, values_BHLD),
    )
    return out_B1D


def _last_states(model: Any, *, inputs_embeds: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutputWithPast:
    """``Qwen2Model.forward`` of rows padded at the left, of which only the last token's state leaves ``(B, 1, D)``."""
    lengths_B = attention_mask.sum(dim=1)
    length, start_B = int(lengths_B.max()), inputs_embeds.shape[1] - lengths_B
    places_BL = (start_B[:, None] + torch.arange(length)).clamp(max=inputs_embeds.shape[1] - 1)
    hidden_BLD = inputs_embeds.gather(1, places_BL.unsqueeze(-1).expand(-1, -1, inputs_embeds.shape[-1]))
    turns = model.rotary_emb(hidden_BLD, torch.arange(length)[None])
    for layer in model.layers[:-1]:
        hidden_BLD = layer(hidden_BLD, attention_mask=None, position_embeddings=turns)
    return BaseModelOutputWithPast(
        last_hidden_state=model.norm(_at_last(model.layers[-1], hidden_BLD, turns, lengths_B))
    )


class _Folded(torch.autograd.Function):
    """x (W + s B A)^T + b with frozen W and b."""

    @staticmethod
    def forward(  # type: ignore[override]  # noqa: PLR0917 - as autograd calls it
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        """The layer's output."""
        whole_OI = torch.addmm(weight_OI, b_OR, a_RI, alpha=scale)
        ctx.save_for_backward(x, whole_OI, a_RI, b_OR)
        ctx.scale = scale
        return functional.linear(x, whole_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x, A and B, by way of W's where that has fewer multiplications."""
        x, whole_OI, a_RI, b_OR = ctx.saved_tensors
        grad_NO, x_NI, scale = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1]), ctx.scale
        if 2 * len(a_RI) * sum(whole_OI.shape) < whole_OI.numel():
            grad_b, grad_a = grad_NO.t() @ (x_NI @ a_RI.t()), (grad_NO @ b_OR).t() @ x_NI
        else:
            grad_OI = grad_NO.t() @ x_NI
            grad_b, grad_a = grad_OI @ a_RI.t(), b_OR.t() @ grad_OI
        grad_x = grad @ whole_OI if ctx.needs_input_grad[0] else None
        return grad_x, None, None, scale * grad_a, scale * grad_b, None


def _folded(layer: Any, adapter: str, inputs: Tensor) -> Tensor:
    """A linear layer with its adapter as one matrix."""
    base, low, high = layer.base_layer, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    out: Tensor = _Folded.apply(inputs, base.weight, base.bias, low, high, layer.scaling[adapter])
    return out


def _adapted(model: nn.Module) -> list[tuple[Any, str]]:
    """Linear layers with one plain adapter that the dense form holds for."""
    found = []
    for module in model.modules():
        layer: Any = module
        if not hasattr(module, "lora_A") or not isinstance(getattr(module, "base_layer", None), nn.Linear):
            continue
        names = list(layer.active_adapters)
        plain = len(names) == 1 and not layer.merged and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        if plain and not layer.lora_variant and not layer.disable_adapters:
            found.append((layer, names[0]))
    return found


def _is_plain(model: Avlm) -> bool:
    """Whether the language model is Qwen2 with full attention over what ``scaled_dot_product_attention`` does."""
    inner = model.vision_language.language_model
    whole = set(inner.config.layer_types) == {"full_attention"} and inner.config._attn_implementation == "sdpa"
    return whole and len(inner.layers) > 0 and isinstance(inner.layers[-1], Qwen2DecoderLayer)


@contextmanager
def quick(model: Model) -> Iterator[Model]:
    """``model`` with the shorter forward pass; anything but an ``Avlm`` over Qwen2 is left as it is."""
    changed: list[Any] = []
    if isinstance(model, Avlm) and _is_plain(model):
        inner = model.vision_language.language_model
        inner.forward = partial(_last_states, inner)
        changed.append(inner)
        for layer, adapter in _adapted(model):
            layer.forward = partial(_folded, layer, adapter)
            changed.append(layer)
    try:
        yield model
    finally:
        for layer in changed:
            del layer.forward


def project(model: Avlm, table: FrozenTable, *, batch_size: int = 16) -> FrozenTable:
    """The table with what the language model reads of each frame in the place of its patches, in float32."""
    if table.patches_NTPD is None:
        return table
    parts = []
    for start in range(0, len(table), batch_size):
        patches_NPD = torch.from_numpy(np.array(table.patches_NTPD[start : start + batch_size])).float()
        with torch.inference_mode():
            parts.append(_pooled(model, patches_NPD.flatten(0, 1)).unflatten(0, patches_NPD.shape[:2]).numpy())
    return replace(table, patches_NTPD=np.concatenate(parts))


def _pooled(model: Avlm, patches_NPD: Tensor) -> Tensor:
    """As ``LlavaOnevisionModel.get_video_features`` after its tower ``(N, P, D)``."""
    inner = model.vision_language
    if inner.config.vision_feature_select_strategy == "default":
        patches_NPD = patches_NPD[:, 1:]
    pooled_NPD: Tensor = inner.apply_pooling(inner.multi_modal_projector(patches_NPD))
    return pooled_NPD


@contextmanager
def given_tokens(model: Avlm) -> Iterator[Avlm]:
    """``model`` for batches of a table that ``project`` made."""

    def video_tokens(batch: Batch) -> Tensor | None:
        if batch.pixels_NCHW is None or batch.frames_per_clip_B is None:
            return None
        newline_1D = model.vision_language.image_newline[None]
        clips = torch.split(batch.pixels_NCHW.squeeze(-1), batch.frames_per_clip_B.tolist())
        return torch.cat([torch.cat([clip.flatten(0, 1), newline_1D]) for clip in clips if len(clip)])

    model.video_tokens = video_tokens  # type: ignore[method-assign]
    try:
        yield model
    finally:
        del model.video_tokens
