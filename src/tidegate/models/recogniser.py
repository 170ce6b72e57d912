"""``Recogniser``: a Whisper checkpoint that writes down what is said.

Enters: 16 kHz mono audio. Leaves: text, greedily decoded, so that the same audio gives the same words. Audio that is
longer than the checkpoint's window (30 s as published) is heard window by window. Why a whole model beside the AVLM's
own encoder: diagnosis asks whether words that the AVLM did not hear can be had by other means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, WhisperProcessor

from tidegate.errors import ScoringError
from tidegate.models.hub import hub_folder, quiet_transformers, recogniser_model, recogniser_processor
from tidegate.types import AudioChunk

__all__ = ["Recogniser", "load_recogniser"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Recogniser:
    """Model and processor of a checkpoint. Safe to call from one thread at a time."""

    model: PreTrainedModel
    processor: WhisperProcessor
    identity: str
    """Changes whenever a text may change."""
    device: str = "cpu"

    def __call__(self, audio: AudioChunk) -> str:
        """What is said; empty if nothing is."""
        texts = (self._text(window) for window in self._windows(audio))
        return " ".join(text for text in texts if text)

    def _windows(self, audio: AudioChunk) -> Iterator[Any]:
        extractor: Any = self.processor.feature_extractor
        if audio.sample_rate_hz != extractor.sampling_rate:
            raise ScoringError(f"expected audio at {extractor.sampling_rate} Hz, got {audio.sample_rate_hz} Hz")
        for start in range(0, len(audio.samples), extractor.n_samples):
            yield audio.samples[start : start + extractor.n_samples]

    def _text(self, samples: Any) -> str:
        extractor: Any = self.processor.feature_extractor
        heard = self.processor(audio=samples, sampling_rate=extractor.sampling_rate, return_tensors="pt",
                               return_attention_mask=True).to(self.device)
        heard["input_features"] = heard["input_features"].to(self.model.dtype)
        model: Any = self.model
        try:
            with torch.inference_mode(), quiet_transformers():
                tokens = model.generate(**heard, do_sample=False, num_beams=1)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ScoringError(f"recognition by {self.identity} failed: {error}") from error
        return str(self.processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip()


def load_recogniser(source: str, *, device: str = "cpu") -> Recogniser:
    """The recogniser of a local folder or a model hub id; only safetensors are read."""
    model: Any = recogniser_model(source)
    return Recogniser(model=model.eval().to(device), processor=recogniser_processor(source), device=device,
                      identity=f"{Path(source).name}@{_hash(hub_folder(source))}")


def _hash(folder: Path) -> str:
    """Of weights, settings and vocabulary."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in {".json", ".safetensors"}):
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
