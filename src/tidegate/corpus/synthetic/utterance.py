"""One utterance of espeak-ng in a process of its own: the program that ``speech.speak`` starts.

Enters: a JSON object on standard input (library, data, voice, text, words_per_minute, pitch, pitch_range). Leaves:
16-bit mono samples at 22,050 Hz on standard output; exit code 3 when espeak-ng has no such voice. Why a process: the
synthesiser keeps oscillator and noise states between utterances, and ending it can wait for ever for its own thread;
a process that speaks once and leaves without saying goodbye has neither trouble. Only the standard library is
imported, so that it starts in some 15 ms. Source: espeak-ng ``speak_lib.h``.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

__all__ = ["NO_SUCH_VOICE"]

NO_SUCH_VOICE = 3
_RETRIEVAL, _RATE, _PITCH, _RANGE, _UTF8 = 1, 1, 3, 4, 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def _say(request: dict[str, Any], pieces: list[bytes]) -> int:
    """Speak into ``pieces``; gives the exit code."""

    def collect(samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _Callback(collect)
    library = ctypes.CDLL(request["library"])
    library.espeak_Initialize(_RETRIEVAL, 0, request["data"].encode(), 0)
    library.espeak_SetSynthCallback(callback)
    ctypes.CDLL(None).srand(1)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        return NO_SUCH_VOICE
    for parameter, name in ((_RATE, "words_per_minute"), (_PITCH, "pitch"), (_RANGE, "pitch_range")):
        library.espeak_SetParameter(parameter, request[name], 0)
    text = request["text"].encode()
    library.espeak_Synth(text, len(text) + 1, 0, 0, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return 0


def _main() -> None:
    pieces: list[bytes] = []
    code = _say(json.load(sys.stdin), pieces)
    sys.stdout.buffer.write(b"".join(pieces))
    sys.stdout.buffer.flush()
    os._exit(code)


if __name__ == "__main__":
    _main()
