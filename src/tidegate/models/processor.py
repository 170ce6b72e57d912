"""``ClipProcessor``: a clip becomes tensors. It is saved with, and loaded from, the checkpoint whose model it feeds.

Enters: ``Clip``. Leaves: ``ClipFeatures`` (one clip, numpy, cacheable) and ``Batch`` (torch). Prompt of the
language model: prefix, the frames' placeholder tokens and a newline token, middle, one line a text, suffix; padded
on the left so that the last position of every row is the suffix's last token (arXiv 2412.10435, section 3.1.2).

Shape legend: see ``batch``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tidegate.errors import CheckpointError, ConfigError
from tidegate.models.batch import Batch, ClipFeatures
from tidegate.models.configs import ProcessorConfig
from tidegate.models.frames import normalise, resize_frames
from tidegate.models.logmel import log_mel, num_mel_frames
from tidegate.models.tokens import encode_texts, literal_tokenizer, special_token_id
from tidegate.types import Clip, ClipRequest

__all__ = ["ClipProcessor"]


class ClipProcessor:
    """Preprocessing of one model. ``tokenizer`` may be None only if the model reads no text."""

    def __init__(self, config: ProcessorConfig, tokenizer: Tokenizer | None) -> None:
        if tokenizer is None and "text" in config.modalities:
            raise ConfigError("expected a tokenizer for a model that reads text, got none")
        self.config = config
        self.tokenizer = tokenizer
        self._literal = None if tokenizer is None else literal_tokenizer(tokenizer)
        self._prefix = self._encode(config.prompt_prefix)
        self._middle = self._encode(config.prompt_middle)
        self._suffix = self._encode(config.prompt_suffix)
        self._pad_id = 0 if tokenizer is None else special_token_id(tokenizer, config.pad_token)
        self._video_id = (
            special_token_id(tokenizer, config.video_token) if tokenizer and config.video_tokens_per_frame else None
        )

    @property
    def request(self) -> ClipRequest:
        """What must be decoded of a video."""
        return self.config.request

    @property
    def fingerprint(self) -> str:
        """Changes whenever the features of some clip may change: the key of feature caches."""
        values = {key: value for key, value in dataclasses.asdict(self.config).items() if key != "prompt_middle"}
        settings = json.dumps(values, sort_keys=True)
        vocabulary = "" if self.tokenizer is None else self.tokenizer.to_str()
        return hashlib.sha256(f"{settings}\n{vocabulary}".encode()).hexdigest()[:16]

    def _encode(self, text: str) -> list[int]:
        return [] if self.tokenizer is None else list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def features(self, clips: Sequence[Clip]) -> list[ClipFeatures]:
        """Features of each clip; what the clip lacks is named in ``missing``."""
        config = self.config
        heard = [clip for clip in clips if "audio" in config.modalities and "audio" not in clip.missing]
        chunks = [clip.audio for clip in heard if clip.audio is not None]
        mels = log_mel(chunks, seconds=config.audio_seconds, num_mel_bins=config.num_mel_bins) if chunks else ()
        mel_of = dict(zip(map(id, heard), mels, strict=True))
        return [self._features(clip, mel_of.get(id(clip))) for clip in clips]

    def _features(self, clip: Clip, mel_MF: np.ndarray | None) -> ClipFeatures:
        config, missing = self.config, tuple(name for name in clip.missing if name in self.config.modalities)
        frames = clip.frames if "vision" in config.modalities and "vision" not in missing else None
        token_ids, dropped = (
            encode_texts(self._literal, clip.texts, config.max_text_tokens)
            if self._literal is not None and "text" in config.modalities
            else ([], 0)
        )
        return ClipFeatures(
            frames_THWC=None if frames is None else resize_frames(frames.frames_THWC, config),
            mel_MF=mel_MF,
            num_mel_frames=0
            if mel_MF is None or clip.audio is None
            else num_mel_frames(len(clip.audio.samples), config.audio_seconds),
            token_ids=np.asarray([token for token in token_ids if token != self._video_id], dtype=np.int64),
            missing=missing,
            truncated_tokens=dropped,
        )

    def collate(self, items: Sequence[ClipFeatures]) -> Batch:
        """Tensors of a batch, prompts included."""
        token_ids, token_mask = self._tokens(items)
        mel_BMF, positions_B = self._audio(items)
        clips = [item.frames_THWC for item in items if item.frames_THWC is not None]
        return Batch(
            size=len(items),
            pixels_NCHW=normalise(clips, self.config) if clips else None,
            frames_per_clip_B=torch.tensor(
                [0 if item.frames_THWC is None else len(item.frames_THWC) for item in items]
            ),
            mel_BMF=mel_BMF,
            audio_positions_B=positions_B,
            token_ids_BL=token_ids,
            token_mask_BL=token_mask,
        )

    def _audio(self, items: Sequence[ClipFeatures]) -> tuple[Tensor | None, Tensor]:
        config = self.config
        positions_B = torch.tensor([-(-item.num_mel_frames // 2) for item in items])
        if all(item.mel_MF is None for item in items):
            return None, positions_B
        mel_BMF = np.zeros((len(items), config.num_mel_bins, config.audio_seconds * 100), dtype=np.float32)
        for row, item in zip(mel_BMF, items, strict=True):
            if item.mel_MF is not None:
                row[:] = item.mel_MF
        return torch.from_numpy(mel_BMF), positions_B

    def _tokens(self, items: Sequence[ClipFeatures]) -> tuple[Tensor | None, Tensor | None]:
        if "text" not in self.config.modalities:
            return None, None
        rows = [self._prompt(item) for item in items]
        token_ids_BL = torch.full((len(rows), max(map(len, rows), default=0)), self._pad_id)
        token_mask_BL = torch.zeros_like(token_ids_BL)
        for index, row in enumerate(rows):
            if row:
                token_ids_BL[index, -len(row) :] = torch.tensor(row)
                token_mask_BL[index, -len(row) :] = 1
        return token_ids_BL, token_mask_BL

    def _prompt(self, item: ClipFeatures) -> list[int]:
        text = item.token_ids.tolist()
        if self._video_id is None:
            return [*self._prefix, *text, *self._suffix] if text else []
        frames = 0 if item.frames_THWC is None else len(item.frames_THWC)
        placeholders = frames * self.config.video_tokens_per_frame + (1 if frames else 0)
        return [*self._prefix, *[self._video_id] * placeholders, *self._middle, *text, *self._suffix]

    def save_json(self) -> dict[str, object]:
        """Content of ``preprocessor_config.json``."""
        return {"processor_class": "ClipProcessor", **dataclasses.asdict(self.config)}

    @classmethod
    def from_json(cls, values: dict[str, object], tokenizer: Tokenizer | None) -> ClipProcessor:
        """Inverse of ``save_json``."""
        found = values.get("processor_class")
        if found != "ClipProcessor":
            raise CheckpointError(
                f"preprocessor_config.json: expected processor_class 'ClipProcessor', found {found!r}"
            )
        rest = {key: value for key, value in values.items() if key != "processor_class"}
        return cls(ProcessorConfig.from_dict(rest), tokenizer)
