"""Engines: how one process, or several together, turn shares of a loss into an optimiser step.

Enters: an objective. Leaves: its parameters, changed. ``OneProcess`` is here; ``tidegate.training.sharded`` has
FSDP2 and DeepSpeed. The loop is the same for all of them: an engine only says which part of a step is this process's,
adds numbers up over the processes, and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tidegate.errors import ConfigError
from tidegate.training.examples import Shard
from tidegate.training.recipes import OptimiserConfig

__all__ = ["Engine", "OneProcess", "autocast", "trained_state"]

MakeOptimiser = Callable[[nn.Module], torch.optim.Optimizer]


class Engine(Protocol):
    """What the loop asks of it."""

    @property
    def shard(self) -> Shard:
        """This process's part of every step."""
        ...

    @property
    def device(self) -> str:
        """Where the model lies."""
        ...

    @property
    def resumable(self) -> bool:
        """Whether it has a ``full_state``."""
        ...

    def prepare(self, objective: nn.Module, make: MakeOptimiser, config: OptimiserConfig) -> None:
        """Take a module whose forward pass is a loss over; once, before the first step."""
        ...

    def loss(self, *inputs: Any) -> Tensor:
        """The objective's forward pass."""
        ...

    def summed(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor added up over all processes."""
        ...

    def step(self, shares: Sequence[Callable[[], Tensor]], rates: Callable[[dict[str, Any]], float]) -> Tensor:
        """One optimiser step on the sum of the shares of all processes; gives this process's sum."""
        ...

    def gathered(self, values: Any) -> list[Any]:
        """The values of all processes, in order of rank."""
        ...

    def scoring(self) -> AbstractContextManager[None]:
        """While it is open, the model's own forward pass can be called."""
        ...

    def full_state(self) -> dict[str, Any]:
        """Trained weights and optimiser, whole; the same on every process."""
        ...

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``full_state``."""
        ...

    def whole(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights as this process holds them, put together from all processes."""
        ...

    def share_out(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of ``whole``: this process's part."""
        ...


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and buffers by name: all that training can change."""
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in fixed}


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Arithmetic of the forward pass, see ``OptimiserConfig.precision``."""
    kind = device.split(":", maxsplit=1)[0]
    wanted = precision == "bfloat16" or (precision == "auto" and kind == "cuda" and torch.cuda.is_bf16_supported())
    return torch.autocast(kind, torch.bfloat16) if wanted else nullcontext()


class OneProcess:
    """Plain PyTorch on one device."""

    resumable = True

    def __init__(self, device: str = "cpu") -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"expected a device that this machine has, got {device!r} and no CUDA device")
        self.device = device
        self.shard = Shard()

    def prepare(self, objective: nn.Module, make: MakeOptimiser, config: OptimiserConfig) -> None:
        """Move to the device and build the optimiser."""
        self.objective = objective.to(self.device)
        self.optimiser = make(self.objective)
        self.config = config

    def loss(self, *inputs: Any) -> Tensor:
        """The objective's forward pass."""
        value: Tensor = self.objective(*inputs)
        return value

    def summed(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The values: there is one process."""
        return list(values)

    def step(self, shares: Sequence[Callable[[], Tensor]], rates: Callable[[dict[str, Any]], float]) -> Tensor:
        """Accumulate, clip, step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rates(group)
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for share in shares:
            loss = share()
            total = total + loss.detach()
            self.backward(loss)
        if bool(self.summed([total])[0].isfinite()):
            nn.utils.clip_grad_norm_([p for p in self.objective.parameters() if p.requires_grad], self.config.clip_norm)
            self.optimiser.step()
        return total

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one share."""
        loss.backward()

    def gathered(self, values: Any) -> list[Any]:
        """The values alone."""
        return [values]

    def scoring(self) -> AbstractContextManager[None]:
        """Nothing needs to be done."""
        return nullcontext()

    def full_state(self) -> dict[str, Any]:
        """Weights, heads, optimiser."""
        return {"objective": trained_state(self.objective), "optimiser": self.optimiser.state_dict()}

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``full_state``."""
        self.objective.load_state_dict(state["objective"], strict=False)
        self.optimiser.load_state_dict(state["optimiser"])

    def whole(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state: nothing is sharded."""
        return state

    def share_out(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state: nothing is sharded."""
        return state
