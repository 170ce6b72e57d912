"""Speech: a synthesiser that crashes or hangs is asked again, one that refuses is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tidegate.corpus.synthetic import speech
from tidegate.corpus.synthetic.speech import Voice
from tidegate.errors import TidegateError


def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> Path:
    """An utterance whose first process ends by ``first``; the next one says a sample. The file counts processes."""
    count = tmp_path / "count"
    script = tmp_path / "utterance.py"
    script.write_text(
        "import os, signal, sys, time\n"
        f"open({str(count)!r}, 'a').write('x')\n"
        f"if os.path.getsize({str(count)!r}) == 1:\n    {first}\n"
        "sys.stdout.buffer.write(b'\\x00\\x40' * 441)\n"
    )
    monkeypatch.setattr(speech.utterance, "__file__", str(script))
    return count


@pytest.mark.parametrize("first", ["os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(60)"])
def test_synthesiser_that_crashes_or_hangs_once_is_asked_again(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = _stand_in(tmp_path, monkeypatch, first)
    monkeypatch.setattr(speech, "_PATIENCE_SECONDS", 3.0)
    assert len(speech.speak("one", "en", Voice())) == 320
    assert count.read_text() == "xx"


def test_synthesiser_that_refuses_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = _stand_in(tmp_path, monkeypatch, "sys.exit(7)")
    with pytest.raises(TidegateError, match="ended with code 7"):
        speech.speak("one", "en", Voice())
    assert count.read_text() == "x"


def test_next_speaker_takes_over_where_one_crashes_on_a_text_every_time() -> None:
    """This speaker does in the espeak-ng that was tried; where it does not crash, it speaks itself."""
    text = "Cảnh sát đã bắt kẻ giết người"
    voice = Voice(variant="anika", words_per_minute=200, pitch=70, pitch_range=70)
    one, other = (speech.speak(text, "vi", voice) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert len(one) > 16_000


def test_synthesiser_that_always_crashes_is_given_up_with_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "utterance.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(speech.utterance, "__file__", str(script))
    with pytest.raises(TidegateError, match=r"'one' by 3 speakers.*-11"):
        speech.speak("one", "en", Voice())
