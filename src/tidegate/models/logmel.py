"""Audio samples to Whisper's log-mel spectrogram.

Enters: 16 kHz mono samples. Leaves: ``mel_BMF`` float32. The arithmetic is that of ``WhisperFeatureExtractor``
(Radford et al. 2022): cut or zero-pad to a fixed length, 25 ms Hann windows every 10 ms, slaney mel filters, log10,
floor at 8 below the clip's maximum, ``(x + 4) / 4``. Here it runs on a whole batch at once and for any length, not
30 s alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from tidegate.errors import ScoringError
from tidegate.types import AudioChunk

__all__ = ["HOP_SAMPLES", "SAMPLE_RATE_HZ", "log_mel", "num_mel_frames"]

SAMPLE_RATE_HZ = 16000
HOP_SAMPLES = 160
_WINDOW_SAMPLES = 400


@cache
def _filters(num_mel_bins: int) -> Tensor:
    filters = mel_filter_bank(
        num_frequency_bins=1 + _WINDOW_SAMPLES // 2,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE_HZ / 2,
        sampling_rate=SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters.T.astype(np.float32))


def num_mel_frames(num_samples: int, seconds: int) -> int:
    """Mel frames that hold real audio when ``num_samples`` are fitted to ``seconds``."""
    return min(-(-num_samples // HOP_SAMPLES), seconds * SAMPLE_RATE_HZ // HOP_SAMPLES)


def log_mel(chunks: Sequence[AudioChunk], *, seconds: int, num_mel_bins: int) -> npt.NDArray[np.float32]:
    """Log-mel spectrograms ``(B, M, 100 * seconds)``."""
    length = seconds * SAMPLE_RATE_HZ
    samples_BN = torch.zeros(len(chunks), length)
    for row, chunk in zip(samples_BN, chunks, strict=True):
        if chunk.sample_rate_hz != SAMPLE_RATE_HZ:
            raise ScoringError(f"expected audio at {SAMPLE_RATE_HZ} Hz, got {chunk.sample_rate_hz} Hz")
        kept = chunk.samples[:length]
        row[: len(kept)] = torch.from_numpy(np.ascontiguousarray(kept))
    window = torch.hann_window(_WINDOW_SAMPLES)
    spectrum = torch.stft(samples_BN, _WINDOW_SAMPLES, HOP_SAMPLES, window=window, return_complex=True)
    power_BKF = (spectrum[..., :-1].abs() ** 2).contiguous()
    log_BMF = (_filters(num_mel_bins) @ power_BKF).clamp(min=1e-10).log10()
    floor_B11 = log_BMF.amax(dim=(1, 2), keepdim=True) - 8.0
    scaled: npt.NDArray[np.float32] = ((torch.maximum(log_BMF, floor_B11) + 4.0) / 4.0).numpy()
    return scaled
