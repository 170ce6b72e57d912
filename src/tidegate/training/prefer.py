"""Preference alignment: an AVLM learns to prefer the right verdict with its reason to a wrong one (DPO).

Enters: an AVLM with a language head, and pairs of texts about clips, the first to be preferred. Leaves: the same
model, changed. Loss of a pair (Rafailov et al. 2023): -log sigmoid(beta ((log p(chosen) - log r(chosen)) - (log
p(rejected) - log r(rejected)))), p the model, r the model as it came, whose log-probabilities are computed once,
before the first step: no second model is kept. ``trl``'s trainer has the same loss, but feeds a ``transformers``
causal model from its own collator, which knows nothing of frames and audio in the embeddings; the tests hold this
loss against it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tidegate.corpus.manifest import Entry
from tidegate.corpus.synthetic.clauses import CLAUSES, EVIDENCE_KINDS
from tidegate.errors import ConfigError, ManifestError
from tidegate.models.avlm import Avlm
from tidegate.models.batch import Batch
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import special_token_id
from tidegate.training.continuation import PADDING, continuation_logits, log_probabilities, pad_continuations
from tidegate.training.engine import Engine, OneProcess, autocast
from tidegate.training.examples import Table, ahead, step_rows
from tidegate.training.loop import TrainingDiverged
from tidegate.training.lora import freeze_towers
from tidegate.training.recipes import OptimiserConfig
from tidegate.training.schedule import make_optimiser, rate_factor

__all__ = [
    "Pair",
    "PreferConfig",
    "PreferResult",
    "dpo_losses",
    "pairs_from_truth",
    "prefer",
    "preference_figures",
    "read_pairs",
]

_MAX_LINE_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two texts about one video."""

    video_id: str
    chosen: str
    """The right verdict and its reason."""
    rejected: str
    """A wrong verdict, or a wrong reason."""


@dataclass(frozen=True, kw_only=True)
class PreferConfig:
    """One run of preference alignment."""

    beta: float = 0.1
    """How dear it is to leave the reference model; > 0."""
    write_weight: float = 0.0
    """Weight of the chosen text's mean token loss, beside the preference: for a model that cannot write it yet."""
    train_towers: bool = False
    """Whether vision and audio towers are trained."""
    max_tokens: int = 64
    """Longest text, in tokens."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(epochs=1, batch_size=8, learning_rate=1e-4)
    )
    """Schedule."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.write_weight < 0 or self.max_tokens < 2:
            raise ConfigError(
                f"expected beta > 0, write_weight >= 0 and at least 2 tokens, got {self.beta}, {self.write_weight}, "
                f"{self.max_tokens}"
            )


@dataclass(frozen=True, kw_only=True)
class PreferResult:
    """Figures on held-out pairs, see ``preference_figures``."""

    before: dict[str, float]
    after: dict[str, float]
    losses: tuple[float, ...]
    """Of the steps."""


def dpo_losses(policy_B2: Tensor, reference_B2: Tensor, beta: float) -> Tensor:
    """Loss of each pair ``(B,)``; log-probabilities of (chosen, rejected) under the model and the reference."""
    gained_B2 = policy_B2 - reference_B2
    return -functional.logsigmoid(beta * (gained_B2[:, 0] - gained_B2[:, 1]))


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a file of JSON Lines; what is wrong is a ``ManifestError`` with file and line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ManifestError(f"{path}: expected pairs in JSON Lines, found: {error}") from error
    return [_pair(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _pair(path: Path, number: int, line: bytes) -> Pair:
    wanted = {"video_id", "chosen", "rejected"}
    try:
        values = json.loads(line) if len(line) <= _MAX_LINE_BYTES else None
    except ValueError:
        values = None
    if (
        not isinstance(values, dict)
        or set(values) != wanted
        or not all(isinstance(value, str) and value.strip() for value in values.values())
    ):
        raise ManifestError(f"{path}: line {number}: expected a JSON object of texts {sorted(wanted)}")
    if values["chosen"] == values["rejected"]:
        raise ManifestError(f"{path}: line {number}: expected two different texts, got the same twice")
    return Pair(**values)


def _verdict(kind: str | None, rng: np.random.Generator, clause_id: str | None = None) -> str:
    """A text in the form of a rationale: what was found where, and what follows. ``clause_id``: None is any."""
    if kind is None:
        return "nothing breaks a rule: keep"
    clauses = [clause for clause in CLAUSES if kind in clause.kinds and clause_id in (None, clause.id)]
    clause = clauses[int(rng.integers(len(clauses)))]
    return f"{clause.title.lower()} in {kind.replace('_', ' ')}: remove"


def pairs_from_truth(entries: Sequence[Entry], issue: str, seed: int = 0) -> list[Pair]:
    """One pair a synthetic video: its true evidence against another kind's, or against the opposite verdict."""
    if not all("kind" in entry.truth and issue in entry.labels for entry in entries):
        raise ManifestError(f"expected videos labelled {issue!r} that carry the truth of the synthetic corpus")
    kinds = tuple(EVIDENCE_KINDS)
    pairs = []
    for number, entry in enumerate(entries):
        rng = np.random.default_rng([seed, number])
        true = entry.truth["kind"] if entry.labels[issue] else None
        others = [kind for kind in (*kinds, None) if kind != true]
        wrong = None if true is not None and rng.random() < 0.5 else others[int(rng.integers(len(others)))]
        texts = _verdict(true, rng, entry.truth["clause"]), _verdict(wrong, rng)
        pairs.append(Pair(video_id=entry.video_id, chosen=texts[0], rejected=texts[1]))
    return [pair for pair in pairs if pair.chosen != pair.rejected]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """Pairs with the clips that they are about."""

    pairs: Sequence[Pair]
    rows: npt.NDArray[np.int64]
    table: Table
    processor: ClipProcessor
    max_tokens: int

    def batch(self, chosen: npt.NDArray[np.int64]) -> tuple[Batch, Tensor, Tensor]:
        """Prompts, chosen texts, rejected texts."""
        pairs = [self.pairs[number] for number in chosen.tolist()]
        batch = self.processor.collate([self.table[int(row)] for row in self.rows[chosen]])
        return batch, self._ids([pair.chosen for pair in pairs]), self._ids([pair.rejected for pair in pairs])

    def _ids(self, texts: Sequence[str]) -> Tensor:
        tokenizer = self.processor.tokenizer
        assert tokenizer is not None
        end = special_token_id(tokenizer, "</s>")
        rows = [tokenizer.encode(text, add_special_tokens=False).ids[: self.max_tokens - 1] for text in texts]
        return pad_continuations([[*row, end] for row in rows])


def _of_pairs(pairs: Sequence[Pair], table: Table, processor: ClipProcessor, max_tokens: int) -> _Pairs:
    row_of = {video_id: row for row, video_id in enumerate(table.video_ids)}
    kept = [pair for pair in pairs if pair.video_id in row_of]
    if not kept:
        raise ManifestError(f"expected pairs about the videos at hand, found none among {len(pairs)}")
    rows = np.asarray([row_of[pair.video_id] for pair in kept], dtype=np.int64)
    return _Pairs(pairs=kept, rows=rows, table=table, processor=processor, max_tokens=max_tokens)


def _both(model: Avlm, batch: Batch, chosen_BS: Tensor, rejected_BS: Tensor) -> Tensor:
    """Log-probabilities of (chosen, rejected) ``(B, 2)``."""
    columns = [
        log_probabilities(continuation_logits(model, batch, targets), targets) for targets in (chosen_BS, rejected_BS)
    ]
    return torch.stack(columns, dim=1)


def _known(model: Avlm, given: _Pairs, device: str, batch_size: int = 16) -> Tensor:
    """Log-probabilities of all pairs under a model at rest ``(N, 2)``."""
    model.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(given.pairs), batch_size):
            numbers = np.arange(start, min(start + batch_size, len(given.pairs)))
            batch, chosen, rejected = given.batch(numbers)
            parts.append(_both(model, batch.to(device), chosen.to(device), rejected.to(device)).cpu())
    return torch.cat(parts)


def preference_figures(policy_N2: Tensor, reference_N2: Tensor, beta: float) -> dict[str, float]:
    """``chosen_more_probable``: share of pairs; ``reward_accuracy``, ``reward_margin``, ``loss``: see DPO."""
    margins_N = beta * ((policy_N2 - reference_N2)[:, 0] - (policy_N2 - reference_N2)[:, 1])
    return {
        "chosen_more_probable": float((policy_N2[:, 0] > policy_N2[:, 1]).float().mean()),
        "reward_accuracy": float((margins_N > 0).float().mean()),
        "reward_margin": float(margins_N.mean()),
        "loss": float(dpo_losses(policy_N2, reference_N2, beta).mean()),
    }


class _Preferring(nn.Module):
    """Share of the loss of a step."""

    def __init__(self, model: Avlm, config: PreferConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(
        self, batch: Batch, chosen_BS: Tensor, rejected_BS: Tensor, reference_B2: Tensor, total: Tensor
    ) -> Tensor:
        """Sum over the pairs, divided by those of the whole step."""
        policy_B2 = _both(self.model, batch, chosen_BS, rejected_BS)
        losses_B = dpo_losses(policy_B2, reference_B2, self.config.beta)
        if self.config.write_weight:
            tokens_B = (chosen_BS != PADDING).sum(dim=1)
            losses_B = losses_B - self.config.write_weight * policy_B2[:, 0] / tokens_B
        return losses_B.sum() / total


def prefer(
    model: Avlm,
    processor: ClipProcessor,
    train: tuple[Sequence[Pair], Table],
    validation: tuple[Sequence[Pair], Table],
    config: PreferConfig,
    *,
    seed: int = 0,
    engine: Engine | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> PreferResult:
    """Train ``model`` in place; pairs about videos that are not in their table are left out.

    The verdict heads are not trained: what is learnt lies in the trunk, and verdicts may move with it.
    """
    if not model.config.language_head:
        raise ConfigError("expected an AVLM with a language head, see `tidegate train align`")
    engine = engine or OneProcess()
    given = _of_pairs(train[0], train[1], processor, config.max_tokens)
    held = _of_pairs(validation[0], validation[1], processor, config.max_tokens)
    model.to(engine.device)
    reference_N2, reference_M2 = (_known(model, part, engine.device) for part in (given, held))
    _rest(model, config)
    engine.prepare(
        _Preferring(model, config), lambda module: make_optimiser(module, config.optimiser), config.optimiser
    )
    losses = _pass_over(model, given, reference_N2, config, engine=engine, seed=seed, on_step=on_step)
    after_M2 = _known(model, held, engine.device)
    model.requires_grad_(True).eval()
    return PreferResult(
        before=preference_figures(reference_M2, reference_M2, config.beta),
        after=preference_figures(after_M2, reference_M2, config.beta),
        losses=tuple(losses),
    )


def _rest(model: Avlm, config: PreferConfig) -> None:
    for name, parameter in model.named_parameters():
        if name.startswith("head."):
            parameter.requires_grad_(False)
    if not config.train_towers:
        freeze_towers(model)


def _pass_over(
    model: Avlm,
    given: _Pairs,
    reference_N2: Tensor,
    config: PreferConfig,
    *,
    engine: Engine,
    seed: int,
    on_step: Callable[[int, int, float], None] | None,
) -> list[float]:
    """All epochs; gives the losses of the steps."""
    optimiser = config.optimiser
    steps = [
        rows
        for epoch in range(optimiser.epochs)
        for rows in step_rows(len(given.pairs), optimiser.batch_size, seed, epoch)
    ]

    def prepared() -> Iterator[list[tuple[npt.NDArray[np.int64], tuple[Batch, Tensor, Tensor]]]]:
        for chosen in steps:
            mine = engine.shard.of(chosen)
            pieces = -(-len(mine) // (optimiser.micro_batch_size or len(mine)))
            yield [(part, given.batch(part)) for part in np.array_split(mine, pieces)]

    losses: list[float] = []
    for number, pieces in enumerate(ahead(prepared())):
        model.train()
        torch.manual_seed(seed * 1_000_003 + number)
        factor = rate_factor(number, len(steps), optimiser.warmup_fraction)
        shares = [_share(engine, optimiser, piece, reference_N2, len(steps[number])) for piece in pieces]
        value = float(engine.summed([engine.step(shares, lambda group, f=factor: group["peak"] * f)])[0])  # type: ignore[misc]
        if not math.isfinite(value):
            videos = [given.pairs[place].video_id for part, _ in pieces for place in part.tolist()]
            raise TrainingDiverged(f"step {number}: expected a finite loss, got {value} on the videos {videos}")
        losses.append(value)
        if on_step is not None and engine.shard.rank == 0:
            on_step(number + 1, len(steps), value)
    return losses


def _share(
    engine: Engine,
    optimiser: OptimiserConfig,
    piece: tuple[npt.NDArray[np.int64], tuple[Batch, Tensor, Tensor]],
    reference_N2: Tensor,
    count: int,
) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        numbers, (batch, chosen, rejected) = piece
        device = engine.device
        with autocast(device, optimiser.precision):
            return engine.loss(
                batch.to(device),
                chosen.to(device),
                rejected.to(device),
                reference_N2[numbers].to(device),
                torch.tensor(float(count), device=device),
            )

    return compute
