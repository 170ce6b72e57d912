"""Plans: the label follows from the policy and from nothing else, and no channel gives it away by being there."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from tidegate.corpus.splits import side_of
from tidegate.corpus.synthetic import CLAUSES, EVIDENCE_KINDS, REGION_LANGUAGES, SyntheticConfig, lexicon
from tidegate.corpus.synthetic.figures import VIOLENT_PAIRS
from tidegate.corpus.synthetic.plan import VideoPlan, plan_video, sources_of
from tidegate.corpus.synthetic.sounds import ALARMING
from tidegate.corpus.synthetic.sprites import FOR_SALE, WEAPONS
from tidegate.errors import ConfigError

CONFIG = SyntheticConfig(out="unused", videos=3000, seed=17, prevalence=0.4)


def plans_of(config: SyntheticConfig) -> list[VideoPlan]:
    return [plan_video(config, index, source) for index, (source, _) in enumerate(sources_of(config))]


@pytest.fixture(scope="module")
def plans() -> list[VideoPlan]:
    return plans_of(CONFIG)


def broken_clauses(plan: VideoPlan) -> set[str]:
    """The policy, written a second time from the words of its clauses."""
    names, phrases = {thing.name for thing in plan.things}, [plan.title, plan.sticker, plan.speech]
    themes = {phrase.theme for phrase in phrases if phrase is not None}
    broken = {
        "weapons": bool(names & set(WEAPONS)) and plan.lower_third != "news",
        "violence": plan.action in VIOLENT_PAIRS,
        "dangerous_acts": plan.act is not None and not plan.act_backwards,
        "threats": "threat" in themes,
        "illegal_goods": "goods" in themes or (bool(names & set(FOR_SALE)) and "offer" in themes),
        "alarming_sounds": plan.sound in ALARMING,
    }
    return {clause for clause, is_broken in broken.items() if is_broken}


def test_a_video_is_positive_exactly_when_one_clause_is_broken(plans: list[VideoPlan]) -> None:
    for plan in plans:
        assert broken_clauses(plan) == ({plan.clause} if plan.label else set()), plan


def test_prevalence_is_exact_and_look_alikes_are_half_of_the_harmless(plans: list[VideoPlan]) -> None:
    assert sum(plan.label for plan in plans) == 1200
    harmless = [plan for plan in plans if not plan.label]
    assert np.mean([plan.look_alike is not None for plan in harmless]) == pytest.approx(0.5, abs=0.04)


def test_every_kind_of_evidence_and_of_look_alike_occurs(plans: list[VideoPlan]) -> None:
    kinds = Counter(plan.kind for plan in plans if plan.label)
    assert set(kinds) == set(EVIDENCE_KINDS)
    assert min(kinds.values()) > 60
    assert {plan.look_alike for plan in plans if plan.look_alike} == set(EVIDENCE_KINDS)
    assert {plan.clause for plan in plans if plan.label} == {clause.id for clause in CLAUSES}


def test_the_presence_of_a_channel_tells_little(plans: list[VideoPlan]) -> None:
    labels = np.array([plan.label for plan in plans])
    for channel in ("sticker", "speech", "sound", "action", "lower_third", "music"):
        present = np.array([bool(getattr(plan, channel)) for plan in plans])
        assert abs(present[labels == 1].mean() - present[labels == 0].mean()) < 0.08, channel


def test_halves_of_a_conjunction_occur_alone_in_harmless_videos(plans: list[VideoPlan]) -> None:
    harmless = [plan for plan in plans if not plan.label]
    assert sum(any(thing.name in FOR_SALE for thing in plan.things) for plan in harmless) > 100
    assert sum("offer" in {p.theme for p in (plan.title, plan.sticker, plan.speech) if p} for plan in harmless) > 100


def test_sources_hold_two_to_four_videos_often_of_both_classes(plans: list[VideoPlan]) -> None:
    labels: dict[str, list[int]] = {}
    for plan in plans[:-4]:
        labels.setdefault(plan.source.source_id, []).append(plan.label)
    assert {len(group) for group in labels.values()} <= {1, 2, 3, 4}
    assert np.mean([len(set(group)) == 2 for group in labels.values()]) > 0.7


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one(plans: list[VideoPlan]) -> None:
    assert plans_of(dataclasses.replace(CONFIG, videos=50)) == plans[:50]


def test_another_seed_gives_other_videos(plans: list[VideoPlan]) -> None:
    other = plans_of(dataclasses.replace(CONFIG, videos=200, seed=18))
    assert not {plan.video_id for plan in other} & {plan.video_id for plan in plans}
    assert not {plan.source.source_id for plan in other} & {plan.source.source_id for plan in plans}


def test_every_side_gets_about_its_share(plans: list[VideoPlan]) -> None:
    sides = Counter(side_of(plan.source.source_id) for plan in plans)
    assert sides["test"] / len(plans) == pytest.approx(0.15, abs=0.03)


def test_over_a_hundred_regions_twenty_languages_and_eight_scripts() -> None:
    languages = lexicon()
    assert len(REGION_LANGUAGES) > 100
    assert all(len(code) == 2 and code.isupper() for code in REGION_LANGUAGES)
    assert {code for codes in REGION_LANGUAGES.values() for code in codes} == set(languages)
    assert len(languages) >= 20
    assert len({language.script for language in languages.values()}) >= 8


def test_phrase_lists_are_parallel_over_languages() -> None:
    english = lexicon()["en"]
    for language in lexicon().values():
        for theme in ("threat", "threat_ok", "goods", "goods_ok", "offer", "benign"):
            lines = language.phrases(theme)
            assert len(lines) == len(english.phrases(theme)), (language.code, theme)
            assert len(set(lines)) == len(lines), (language.code, theme)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"videos": 0}, "videos"), ({"prevalence": 1.2}, "prevalence"), ({"regions": ("XX",)}, "regions"),
        ({"workers": 0}, "workers"), ({"task": "spam"}, "task"), ({"seed": -1}, "seed"),
        ({"task": "ucc", "prevalence": 0.9}, "prevalence"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(wrong: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SyntheticConfig(**{"out": "unused", "videos": 1, **wrong})


def test_regions_can_be_chosen() -> None:
    config = SyntheticConfig(out="unused", videos=60, regions=("IL", "GE"))
    assert {plan.source.region for plan in plans_of(config)} == {"IL", "GE"}
