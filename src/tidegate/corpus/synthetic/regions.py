"""Regions of the synthetic corpus: ISO 3166-1 alpha-2 codes, each with the languages heard and read there.

Enters: a code, or a random generator. Leaves: a region and one of its languages. The table keeps to languages that the
lexicon holds (espeak-ng speaks them and the packaged fonts draw them), so it is a caricature of the world: a country
whose languages are missing is missing. Sizes are long-tailed, as on a platform: a few regions hold half of the videos.
"""

from __future__ import annotations

import numpy as np

from tidegate.errors import ConfigError

__all__ = ["REGION_LANGUAGES", "draw_region", "region_weights"]

_TABLE = """
US:en,es GB:en CA:en,fr AU:en NZ:en IE:en ZA:en NG:en GH:en JM:en PH:en SG:en,zh,ta TT:en BS:en MT:en
ES:es MX:es AR:es CO:es CL:es PE:es VE:es EC:es GT:es CU:es BO:es DO:es HN:es PY:es SV:es NI:es CR:es PA:es UY:es GQ:es
BR:pt PT:pt AO:pt MZ:pt CV:pt ST:pt GW:pt
FR:fr BE:fr,nl CH:de,fr,it LU:fr,de MC:fr SN:fr CI:fr CM:fr,en ML:fr CD:fr GA:fr TG:fr BJ:fr MG:fr HT:fr
DE:de AT:de LI:de IT:it SM:it NL:nl SR:nl PL:pl RO:ro MD:ro,ru SE:sv FI:sv TR:tr ID:id VN:vi
KE:sw,en TZ:sw UG:sw,en
RU:ru BY:ru KZ:ru KG:ru UA:uk,ru BG:bg GR:el CY:el,tr
EG:ar SA:ar AE:ar IQ:ar JO:ar LB:ar,fr SY:ar YE:ar OM:ar KW:ar QA:ar BH:ar LY:ar TN:ar,fr DZ:ar,fr
MA:ar,fr SD:ar MR:ar PS:ar
IR:fa AF:fa PK:ur IL:he,ar
IN:hi,te,ta,bn,en BD:bn LK:ta TH:th CN:zh TW:zh HK:zh,en MO:zh,pt MY:en,zh,ta JP:ja KR:ko KP:ko GE:ka AM:hy ET:am
"""
REGION_LANGUAGES: dict[str, tuple[str, ...]] = {
    code: tuple(languages.split(",")) for code, languages in (entry.split(":") for entry in _TABLE.split())
}
"""Region code to its languages, the most used first."""

_LARGE = (
    "US:18 GB:7 IN:8 BR:6 MX:8 ID:3 RU:6 CN:6 JP:4 DE:4 FR:4 EG:4 SA:3 TR:3 VN:2 ES:5 PK:2 BD:2 KR:3 TH:2 IT:2 IR:1 "
    "PL:1 NL:1 SE:1 RO:1 UA:1 BG:0.7 GR:1 IL:1 GE:0.7 AM:0.7 ET:0.7 KE:1"
)
_WEIGHTS = {code: float(weight) for code, weight in (entry.split(":") for entry in _LARGE.split())}
_SMALL_WEIGHT = 0.2


def region_weights(regions: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], np.ndarray]:
    """The regions to draw from and their shares; ``ConfigError`` names a code that the table lacks."""
    chosen = tuple(REGION_LANGUAGES) if regions is None else tuple(regions)
    unknown = sorted(set(chosen) - set(REGION_LANGUAGES))
    if unknown or not chosen:
        raise ConfigError(
            f"regions: expected codes among {', '.join(sorted(REGION_LANGUAGES))}; got {unknown or 'none'}"
        )
    weights = np.array([_WEIGHTS.get(code, _SMALL_WEIGHT) for code in chosen])
    return chosen, weights / weights.sum()


def draw_region(rng: np.random.Generator, regions: tuple[str, ...] | None = None) -> tuple[str, str]:
    """A region, and a language of that region: the first one for half of its videos, else any of them."""
    chosen, weights = region_weights(regions)
    region = chosen[int(rng.choice(len(chosen), p=weights))]
    languages = REGION_LANGUAGES[region]
    language = languages[0] if rng.random() < 0.5 else languages[int(rng.integers(len(languages)))]
    return region, language
