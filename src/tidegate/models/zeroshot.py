"""``ZeroShotStage``: a verdict by the words of a policy, without labels and without training.

Enters: clips. Leaves: one ``Score`` a clip: the probability that a vision-language model answers yes and not no when it
is shown the clip and a clause of the policy, ``p(yes) / (p(yes) + p(no))``. Any LLaVA-OneVision source does, by hub id
or folder, and an ``Avlm`` checkpoint that kept its language head (then with audio, if it is fused early). An answer may
be several tokens long: its probability is that of all its tokens in order. The figure ranks clips; it is not a
calibrated probability, and the stage's ``notice`` says so.

Shape legend: B clips, L tokens, V vocabulary, D features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tidegate.errors import CheckpointError, ConfigError, ScoringError
from tidegate.models.avlm import Avlm, LanguageInputs
from tidegate.models.batch import Batch
from tidegate.models.checkpoint import checkpoint_hash, load_checkpoint
from tidegate.models.compose import compose_avlm
from tidegate.models.configs import ProcessorConfig
from tidegate.models.processor import ClipProcessor
from tidegate.types import Clip, ClipRequest, Score

__all__ = ["ZERO_SHOT_NOTICE", "ZeroShotConfig", "ZeroShotStage", "load_zero_shot", "zero_shot_prompt"]

ZERO_SHOT_NOTICE = (
    "Judged by the words of a policy clause, without training: the score ranks videos and is not calibrated; "
    "choose thresholds on labelled videos of your own."
)
MAX_CLAUSE_CHARACTERS = 4000
Answers = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """What is asked of the model."""

    clause: str
    """The rule, in words: what a video must not show. It is quoted to the model as it stands."""
    issue: str = "icd"
    """Under which issue the score is reported."""
    question: str = "Does this video break the rule? Answer with yes or no."
    """Asked after the clause and the video's texts."""
    yes: tuple[str, ...] = ("yes", "Yes")
    """Answers that mean a violation; their probabilities are added."""
    no: tuple[str, ...] = ("no", "No")
    """Answers that mean none."""

    def __post_init__(self) -> None:
        if not self.clause.strip() or len(self.clause) > MAX_CLAUSE_CHARACTERS:
            raise ConfigError(
                f"expected a clause of 1 to {MAX_CLAUSE_CHARACTERS} characters, got {len(self.clause.strip())}"
            )
        if not all((*self.yes, *self.no)) or not self.yes or not self.no or set(self.yes) & set(self.no):
            raise ConfigError(f"expected different, non-empty answers for yes and no, got {self.yes} and {self.no}")


def zero_shot_prompt(config: ProcessorConfig, wanted: ZeroShotConfig) -> ProcessorConfig:
    """The preprocessing of a chat model with the clause and the question in its prompt."""
    return dataclasses.replace(
        config,
        prompt_middle=f"{config.prompt_middle}Rule: {wanted.clause.strip()}\nTexts of the video:\n",
        prompt_suffix=f"{wanted.question}{config.prompt_suffix}",
    )


def _answers(processor: ClipProcessor, words: Sequence[str]) -> Answers:
    tokenizer = processor.tokenizer
    if tokenizer is None:
        raise ConfigError("expected a processor with a tokenizer for a zero-shot stage, got one without")
    ids = {tuple(tokenizer.encode(word, add_special_tokens=False).ids) for word in words} - {()}
    if not ids:
        raise CheckpointError(f"expected a tokenizer that can write one of {list(words)}, found one that cannot")
    return tuple(sorted(ids))


def answer_log_probability(model: Avlm, inputs: LanguageInputs, answers: Answers) -> Tensor:
    """Log-probability ``(B,)`` that the text goes on with one of the answers; float32."""
    embed = model.vision_language.get_input_embeddings()
    each: list[Tensor] = []
    for answer in answers:
        ids_L = torch.tensor(answer, device=inputs.embeds_BLD.device)
        before_BLD = embed(ids_L[:-1]).expand(len(inputs.embeds_BLD), -1, -1).to(inputs.embeds_BLD.dtype)
        whole = LanguageInputs(
            embeds_BLD=torch.cat([inputs.embeds_BLD, before_BLD], dim=1),
            mask_BL=torch.cat([inputs.mask_BL, inputs.mask_BL.new_ones(before_BLD.shape[:2])], dim=1),
        )
        logits_BLV = model.token_logits(model.states(whole)[:, -len(answer) :]).float()
        chosen_BL = logits_BLV.log_softmax(dim=-1).gather(-1, ids_L.expand(len(logits_BLV), -1).unsqueeze(-1))
        each.append(chosen_BL.squeeze(-1).sum(dim=-1))
    return torch.stack(each).logsumexp(dim=0)


def _single_tokens(logits_BV: Tensor, answers: Answers) -> Tensor:
    """The same of answers of one token, all of which one row of logits gives."""
    return logits_BV.float().log_softmax(dim=-1)[:, [answer[0] for answer in answers]].logsumexp(dim=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ZeroShotStage:
    """A chat model that scores clips by a clause of a policy. Safe to call from one thread at a time."""

    name: str
    config: ZeroShotConfig
    model: Avlm
    """With its language head."""
    processor: ClipProcessor
    """With clause and question in its prompt, see ``zero_shot_prompt``."""
    identity: str
    """Source of the weights and hash of what was asked; ``Score.model``."""
    device: str = "cpu"
    batch_size: int = 4
    """Clips of one forward pass."""

    def __post_init__(self) -> None:
        if not self.model.config.language_head:
            raise ConfigError(f"{self.identity}: expected a model that kept its language head, got one without")

    @property
    def issue(self) -> str:
        """What the score is reported as."""
        return self.config.issue

    @property
    def request(self) -> ClipRequest:
        """What must be decoded of a video."""
        return self.processor.request

    @property
    def notice(self) -> str:
        """What every view of this stage's verdicts must say."""
        return ZERO_SHOT_NOTICE

    def log_probabilities(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B,)`` of yes and of no."""
        yes, no = _answers(self.processor, self.config.yes), _answers(self.processor, self.config.no)
        inputs = self.model.inputs(batch)
        if all(len(answer) == 1 for answer in (*yes, *no)):
            logits_BV = self.model.token_logits(self.model.states(inputs)[:, -1])
            return _single_tokens(logits_BV, yes), _single_tokens(logits_BV, no)
        return answer_log_probability(self.model, inputs, yes), answer_log_probability(self.model, inputs, no)

    def __call__(self, clips: Sequence[Clip]) -> list[Score]:
        """One score a clip, in order."""
        starts = range(0, len(clips), self.batch_size)
        return [score for start in starts for score in self._scores(clips[start : start + self.batch_size])]

    def _scores(self, clips: Sequence[Clip]) -> Iterator[Score]:
        started = time.perf_counter()
        features = self.processor.features(clips)
        for clip, item in zip(clips, features, strict=True):
            if set(item.missing) == set(self.processor.config.modalities):
                raise ScoringError(f"{clip.video_id}: expected at least one of {item.missing}, the clip has none")
        try:
            with torch.inference_mode():
                yes_B, no_B = self.log_probabilities(self.processor.collate(features).to(self.device))
                values: list[float] = torch.sigmoid(yes_B - no_B).tolist()
        except RuntimeError as error:
            raise ScoringError(f"forward pass of {self.identity} failed on {len(clips)} clips: {error}") from error
        share = (time.perf_counter() - started) / len(clips)
        for clip, item, value in zip(clips, features, values, strict=True):
            if not math.isfinite(value):
                raise ScoringError(f"{clip.video_id}: expected a finite score from {self.identity}, got {value}")
            yield Score(
                value=value,
                stage=self.name,
                issue=self.issue,
                model=self.identity,
                missing=item.missing,
                cost_seconds=share,
            )


def _asked(config: ZeroShotConfig, processor: ProcessorConfig) -> str:
    """Eight digits that change with the clause, the question or the preprocessing."""
    return hashlib.sha256(repr((config, processor)).encode()).hexdigest()[:8]


def load_zero_shot(
    source: str | Path,
    config: ZeroShotConfig,
    *,
    name: str = "large",
    num_frames: int = 8,
    device: str = "cpu",
    batch_size: int = 4,
    dtype: str | None = None,
) -> ZeroShotStage:
    """A zero-shot stage out of a LLaVA-OneVision hub id or folder, or a Tidegate checkpoint with a language head.

    ``dtype``: None means bfloat16 on an accelerator and float32 on the CPU. A checkpoint brings its own frames.
    """
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    if (Path(source) / "card.json").exists():
        found, processor, card = load_checkpoint(source)
        if not isinstance(found, Avlm) or not found.config.language_head:
            raise CheckpointError(
                f"{source}: expected an AVLM that kept its language head, found a {type(found).__name__}"
            )
        model, title = found.cast(dtype), f"{card.name}@{checkpoint_hash(source)}"
    else:
        model, processor, card = compose_avlm(
            vl=str(source), issue=config.issue, language_head=True, num_frames=num_frames, dtype=dtype
        )
        title = card.name
    asked = ClipProcessor(zero_shot_prompt(processor.config, config), processor.tokenizer)
    return ZeroShotStage(
        name=name,
        config=config,
        model=model.to(device).eval(),
        processor=asked,
        identity=f"{title}:zero-shot@{_asked(config, asked.config)}",
        device=device,
        batch_size=batch_size,
    )
