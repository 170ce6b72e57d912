"""Policies: regions inherit, every key is checked, and the file and the key are named when one is wrong."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import ConfigError
from tidegate.pipeline.policy import Clause, Policy, RegionOverride
from tidegate.pipeline.policy_file import MAX_POLICY_BYTES, default_policy, parse_policy, read_policy

HEAD = '[policy]\nname = "p"\nversion = "3"\n'
CLAUSE = '[[clause]]\nid = "c1"\nissue = "icd"\ntitle = "First"\n'
FULL = HEAD + CLAUSE + """
remove_at = 0.5
ignore_from = 0.4
effective_from = 2026-01-01

[[clause]]
id = "c2"
issue = "icd"
title = "Second"
action = "ignore"

[cascade]
p_base = 10
view_limit = 1000

[groups]
EU = ["DE", "FR"]
DACH = ["DE", "AT", "CH"]

[region.default.clause.c1]
remove_at = 0.45

[region.EU.clause.c1]
remove_at = { base = 0.9, large = 0.42 }

[region.EU.cascade]
view_limit = 500

[region.DACH.clause.c2]
action = "remove"

[region.DE.clause.c1]
effective_from = 2026-06-01

[region.DE.cascade]
tau = 0.2
"""


def test_default_policy_has_a_clause_for_both_tasks() -> None:
    policy = default_policy()
    assert {clause.issue for clause in policy.clauses} == {"icd", "ucc"}
    assert len(policy.groups["EU"]) == 27
    assert policy.routing.p_base == 50


def test_country_inherits_from_its_groups_and_they_from_default() -> None:
    policy = parse_policy(FULL)
    c1 = {region: policy.resolve(region).clauses[0] for region in (None, "US", "FR", "DE", "CH")}
    assert c1[None].remove_at == c1["US"].remove_at == c1["CH"].remove_at == 0.45
    assert c1["FR"].remove_at == c1["DE"].remove_at == {"base": 0.9, "large": 0.42}
    assert c1["FR"].effective_from == date(2026, 1, 1)
    assert c1["DE"].effective_from == date(2026, 6, 1)
    assert policy.resolve("CH").clauses[1].action == "remove"
    assert policy.resolve("FR").clauses[1].action == "ignore"


def test_routing_inherits_and_tau_takes_the_place_of_p_base() -> None:
    policy = parse_policy(FULL)
    assert policy.resolve("FR").routing.view_limit == 500
    assert policy.resolve("US").routing.view_limit == 1000
    german = policy.resolve("DE").routing
    assert (german.tau, german.p_base, german.view_limit) == (0.2, None, 500)


def test_explanation_says_where_each_setting_comes_from() -> None:
    text = parse_policy(FULL).explain("DE")
    assert "default → EU → DACH → DE" in text
    assert "remove_at = {'base': 0.9, 'large': 0.42} (from region.EU)" in text
    assert "effective_from = 2026-06-01 (from region.DE)" in text
    assert "ignore_from = 0.4 (from the policy)" in text
    assert "action = remove (from region.DACH)" in text
    assert "an unknown region" in parse_policy(FULL).explain(None)


def test_hash_follows_the_content_and_not_the_writing() -> None:
    plain = parse_policy(FULL)
    moved = FULL.replace("p_base = 10\nview_limit = 1000", "view_limit = 1000\np_base = 10")
    rearranged = parse_policy("# a comment\n" + moved)
    assert plain.policy_hash == rearranged.policy_hash
    assert parse_policy(FULL.replace("0.42", "0.43")).policy_hash != plain.policy_hash
    assert parse_policy(FULL.replace("2026-06-01", "2026-06-02")).policy_hash != plain.policy_hash


@pytest.mark.parametrize(("text", "key"), [
    ("", "policy.name"),
    (HEAD, "clause"),
    ("x = ", "TOML"),
    (HEAD + CLAUSE + "remove_att = 1\n", "did you mean remove_at"),
    (HEAD + CLAUSE + "remove_at = 1.5\n", "clause[0].remove_at"),
    (HEAD + CLAUSE + "remove_at = nan\n", "clause[0].remove_at"),
    (HEAD + CLAUSE + "remove_at = true\n", "clause[0].remove_at"),
    (HEAD + CLAUSE + 'remove_at = { base = "x" }\n', "clause[0].remove_at.base"),
    (HEAD + CLAUSE + "remove_at = 0.3\nignore_from = 0.4\n", "clause[0].ignore_from"),
    (HEAD + CLAUSE + 'action = "delete"\n', "clause[0].action"),
    (HEAD + CLAUSE + 'effective_from = "2026-01-01"\n', "effective_from"),
    (HEAD + CLAUSE + "effective_from = 2026-02-01\neffective_until = 2026-01-01\n", "effective_until"),
    (HEAD + CLAUSE + CLAUSE, "'c1' twice"),
    (HEAD + '[[clause]]\nid = "c"\nissue = "icd"\n', "title"),
    (HEAD + CLAUSE + "[clauses]\n", "did you mean clause"),
    (HEAD + CLAUSE + '[cascade]\nrule = "precison"\n', "did you mean precision"),
    (HEAD + CLAUSE + "[cascade]\np_base = 10\ntau = 0.1\n", "not both"),
    (HEAD + CLAUSE + "[cascade]\nview_limit = -1\n", "cascade.view_limit"),
    (HEAD + CLAUSE + "[groups]\nEU = ['de']\n", "groups.EU"),
    (HEAD + CLAUSE + "[groups]\neu = ['DE']\n", "groups.eu"),
    (HEAD + CLAUSE + "[region.Germany]\n", "region.Germany"),
    (HEAD + CLAUSE + "[region.defalt]\n", "did you mean default"),
    (HEAD + CLAUSE + "[region.DE.clause.c9]\nremove_at = 0.5\n", "region.DE.clause.c9"),
    (HEAD + CLAUSE + "[region.DE.clause.c1]\nissue = 'x'\n", "region.DE.clause.c1.issue"),
    (HEAD + CLAUSE + "[region.DE.clause.c1]\nremove_at = 0.2\nignore_from = 0.3\n", "region.DE.clause.c1.ignore_from"),
    ("policy = 3\n" + CLAUSE, "policy"),
    (HEAD + "clause = 3\n", "clause"),
])
def test_wrong_key_is_named(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=r"my\.toml") as caught:
        parse_policy(text, origin="my.toml")
    assert key in str(caught.value)


def test_groups_that_disagree_about_a_country_are_refused_unless_it_says_itself() -> None:
    text = HEAD + CLAUSE + "[groups]\nA = ['DE']\nB = ['DE']\n[region.A.clause.c1]\nremove_at = 0.3\n"
    conflict = text + "[region.B.clause.c1]\nremove_at = 0.4\n"
    with pytest.raises(ConfigError, match="gives DE"):
        parse_policy(conflict)
    own = parse_policy(conflict + "[region.DE.clause.c1]\nremove_at = 0.5\n")
    assert own.resolve("DE").clauses[0].remove_at == 0.5


def test_file_errors_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="UTF-8"):
        read_policy(tmp_path / "latin.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (MAX_POLICY_BYTES + 1))
    with pytest.raises(ConfigError, match="at most"):
        read_policy(tmp_path / "huge.toml")
    (tmp_path / "good.toml").write_text(FULL)
    assert read_policy(tmp_path / "good.toml").version == "3"


levels = st.fixed_dictionaries({}, optional={"remove_at": st.floats(0, 1), "title": st.text(min_size=1, max_size=5)})


@given(levels, levels, levels)
def test_the_nearest_level_that_speaks_wins(
    default: dict[str, object], group: dict[str, object], own: dict[str, object]
) -> None:
    clause = Clause(id="c", issue="icd", title="own", remove_at=None)
    given_levels = {"default": default, "EU": group, "DE": own}
    regions = {name: RegionOverride(clauses={"c": settings}) for name, settings in given_levels.items()}
    policy = Policy(name="p", version="1", clauses=(clause,), groups={"EU": ("DE",)}, regions=regions)
    resolved = policy.resolve("DE").clauses[0]
    for key in ("remove_at", "title"):
        spoken = [level[key] for level in (own, group, default) if key in level]
        assert getattr(resolved, key) == (spoken[0] if spoken else getattr(clause, key))
