"""Media: probe, sample, decode, encode.

Enters: paths of untrusted files. Leaves: facts, frames, audio. No torch here.
"""

from tidegate.media.audio import read_audio
from tidegate.media.clip import read_clip
from tidegate.media.encode import encode_video
from tidegate.media.frames import read_frames
from tidegate.media.info import AudioTrack, MediaInfo, describe
from tidegate.media.limits import Limits
from tidegate.media.pool import DecoderPool
from tidegate.media.probe import probe
from tidegate.media.sampling import keyframe_instants, uniform_instants, windowed_instants
from tidegate.media.sound import loud_spans, speech_spans, waveform_envelope

__all__ = [
    "AudioTrack",
    "DecoderPool",
    "Limits",
    "MediaInfo",
    "describe",
    "encode_video",
    "keyframe_instants",
    "loud_spans",
    "probe",
    "read_audio",
    "read_clip",
    "read_frames",
    "speech_spans",
    "uniform_instants",
    "waveform_envelope",
    "windowed_instants",
]
