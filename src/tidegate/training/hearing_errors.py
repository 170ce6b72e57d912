"""How wrong a transcript is: word and character error rates by language, and sounds named rightly.

Enters: items and what was written for each. Leaves: plain numbers. Word error rate is edits a word of the reference,
so it can exceed 1; languages written without spaces are judged by characters (as FLEURS does: Conneau et al. 2022).
Case and punctuation do not count. Computed by ``jiwer``.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from tidegate.errors import DependencyMissing
from tidegate.training.speech import UNSPACED, Heard

__all__ = ["hearing_errors", "plain_text"]


def plain_text(text: str) -> str:
    """Lower case, without punctuation, single spaces, composed form (NFC)."""
    kept = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in text.casefold())
    return " ".join(unicodedata.normalize("NFC", kept).split())


def _rate(kind: str, pairs: Sequence[tuple[str, str]]) -> float:
    """Error rate over all pairs together; NaN of none."""
    try:
        import jiwer
    except ImportError as error:
        raise DependencyMissing("error rates of transcripts: pip install 'tidegate[train]'") from error
    if not pairs:
        return math.nan
    measure = jiwer.cer if kind == "cer" else jiwer.wer
    return float(measure([reference for reference, _ in pairs], [found for _, found in pairs]))


def hearing_errors(items: Sequence[Heard], texts: Sequence[str]) -> dict[str, Any]:
    """``wer`` (languages with spaces), ``cer`` (all), ``by_language``, ``known_wer``, ``new_order_wer``, ``sounds``.

    ``by_language``: its WER, or CER if it is written without spaces. ``sounds``: share of sounds whose name is written.
    """
    rows = [(item, plain_text(item.text), plain_text(text)) for item, text in zip(items, texts, strict=True)]
    spoken = [(item, (right, found)) for item, right, found in rows if item.task == "transcribe"]
    spaced = [(item, pair) for item, pair in spoken if item.language not in UNSPACED]
    named = [right == found for item, right, found in rows if item.task == "describe"]
    languages = sorted({str(item.language) for item, _ in spoken})
    return {
        "wer": _rate("wer", [pair for _, pair in spaced]),
        "cer": _rate("cer", [pair for _, pair in spoken]),
        "known_wer": _rate("wer", [pair for item, pair in spaced if not item.new_order]),
        "new_order_wer": _rate("wer", [pair for item, pair in spaced if item.new_order]),
        "sounds": sum(named) / len(named) if named else math.nan,
        "by_language": {
            code: _rate("cer" if code in UNSPACED else "wer", [pair for item, pair in spoken if item.language == code])
            for code in languages
        },
    }
