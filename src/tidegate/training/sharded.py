"""Several processes train one model: FSDP2 in its ZeRO-2 form, or DeepSpeed's ZeRO-2.

Enters: an ``Objective`` in each process, the same in all. Leaves: its parameters, changed alike. Each process
computes its shard of a step; losses are sums over totals that are added up over all processes, so that the step's
loss and gradient are those of one process (``losses``). ZeRO-2 (Rajbhandari et al. 2020): gradients and optimiser
states are sharded, weights stay whole from the forward to the backward pass (``reshard_after_forward=False``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tidegate.errors import ConfigError, DependencyMissing
from tidegate.training.engine import MakeOptimiser, OneProcess, trained_state
from tidegate.training.examples import Shard
from tidegate.training.recipes import OptimiserConfig

__all__ = ["DeepSpeedZero", "Fsdp"]

_LAYERS = ("Qwen2DecoderLayer", "SiglipEncoderLayer", "WhisperEncoderLayer", "XLMRobertaLayer", "ResNetStage")
"""Blocks that are gathered one at a time; what lies outside them is gathered together."""


class _Several(OneProcess):
    """What every engine of several processes has in common. A process group must be there."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        if not distributed.is_initialized():
            raise ConfigError("expected a process group, found none: start by torchrun")
        self.shard = Shard(rank=distributed.get_rank(), world_size=distributed.get_world_size())

    def summed(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor added up over all processes."""
        out = [value.detach().clone() for value in values]
        for value in out:
            distributed.all_reduce(value)
        return out

    def gathered(self, values: Any) -> list[Any]:
        """The values of all processes, in order of rank; arrays and numbers of our own processes only."""
        parts: list[Any] = [None] * self.shard.world_size
        distributed.all_gather_object(parts, values)
        return parts


class Fsdp(_Several):
    """``torch.distributed.fsdp.fully_shard``."""

    def prepare(self, objective: nn.Module, make: MakeOptimiser, config: OptimiserConfig) -> None:
        """Shard layer by layer, then the rest."""
        mesh = init_device_mesh(self.device.split(":", maxsplit=1)[0], (self.shard.world_size,))
        objective.to(self.device)
        for module in [*objective.modules()]:
            if type(module).__name__ in _LAYERS:
                fully_shard(module, mesh=mesh, reshard_after_forward=False)
        root: Any = fully_shard(objective, mesh=mesh, reshard_after_forward=False)
        root._get_fsdp_state()._lazy_init()  # else a model scored before its first step takes a layer for the root
        super().prepare(objective, make, config)

    def backward(self, loss: Tensor) -> None:
        """FSDP averages gradients over the processes; the shares of the loss are to be added up."""
        (loss * self.shard.world_size).backward()

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Weights are gathered: the model is called without the objective around it."""
        parts = [module for module in self.objective.modules() if isinstance(module, FSDPModule)]
        for part in parts:
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()

    def full_state(self) -> dict[str, Any]:
        """Weights and optimiser, put together from all processes."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {
            "objective": self.whole(trained_state(self.objective)),
            "optimiser": get_optimizer_state_dict(self.objective, self.optimiser, options=options),
        }

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``full_state``."""
        self.objective.load_state_dict(
            self.share_out_like(trained_state(self.objective), state["objective"]), strict=False
        )
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.objective, self.optimiser, state["optimiser"], options=options)

    def whole(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights put together from all processes."""
        return {
            name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()
            for name, tensor in state.items()
        }

    def share_out(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """This process's part of the model's weights."""
        return self.share_out_like(trained_state(self.objective.get_submodule("model")), state)

    def share_out_like(self, like: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors, sharded as their namesakes are."""
        return {name: _sharded(tensor, like.get(name)) for name, tensor in state.items()}


def _sharded(tensor: Tensor, like: Tensor | None) -> Tensor:
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


class DeepSpeedZero(_Several):
    """``deepspeed.initialize`` with ZeRO stage 2. Its runs cannot be resumed: FSDP's can."""

    resumable = False

    def prepare(self, objective: nn.Module, make: MakeOptimiser, config: OptimiserConfig) -> None:
        """Hand model and optimiser over. Clipping is set: DeepSpeed's own default is 1, whatever the recipe says."""
        try:
            import deepspeed
        except ImportError as error:
            raise DependencyMissing("DeepSpeed: pip install 'tidegate[deepspeed]'") from error
        super().prepare(objective, make, config)
        if self.device == "cpu":  # gloo does it all: no shared-memory extension is compiled
            import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
        world_size = self.shard.world_size
        mine = -(-config.batch_size // world_size)
        micro = min(mine, config.micro_batch_size or mine)
        pieces = -(-mine // micro)
        self.pieces = pieces
        self.wrapped, self.optimiser, *_ = deepspeed.initialize(
            model=self.objective,
            optimizer=self.optimiser,
            model_parameters=[p for p in objective.parameters() if p.requires_grad],
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": micro,
                "gradient_accumulation_steps": pieces,
                "train_batch_size": micro * pieces * world_size,
                "gradient_clipping": config.clip_norm,
                "zero_optimization": {"stage": 2},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            },
        )

    def loss(self, *inputs: Any) -> Tensor:
        """The wrapped objective's forward pass."""
        value: Tensor = self.wrapped(*inputs)
        return value

    def step(self, shares: Sequence[Callable[[], Tensor]], rates: Callable[[dict[str, Any]], float]) -> Tensor:
        """DeepSpeed averages over micro-batches and processes; the shares are to be added up."""
        if len(shares) != self.pieces:
            raise ConfigError(
                f"expected {self.pieces} micro-batches in every step, as DeepSpeed counts, got {len(shares)}"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = rates(group)
        total = torch.zeros((), device=self.device)
        for share in shares:
            loss = share()
            total = total + loss.detach()
            if not bool(self.summed([loss])[0].isfinite()):
                return total  # no optimiser step: the loop stops the run
            self.wrapped.backward(loss * self.pieces * self.shard.world_size)
            self.wrapped.step()
        return total

    def full_state(self) -> dict[str, Any]:
        """Not to be had from this engine."""
        raise ConfigError("expected strategy fsdp for a run that is saved and resumed, got deepspeed")
