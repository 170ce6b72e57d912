"""Switches that diagnosis recommends: each changes what the model is trained on as it says, and refuses nonsense."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from training_samples import AVLM, ListTable, seen_and_heard, small_avlm, small_corpus
from typer.testing import CliRunner

from tidegate.cli import app
from tidegate.corpus.manifest import Entry, Manifest, read_manifest, write_manifest
from tidegate.diagnosis.interventions import REGISTRY, Context
from tidegate.diagnosis.interventions.training import Training
from tidegate.errors import ConfigError, ManifestError
from tidegate.models import Card, load_checkpoint, save_checkpoint
from tidegate.models.batch import ClipFeatures
from tidegate.training.augment import AugmentConfig, augment
from tidegate.training.corruption import CorruptedTable, corrupted
from tidegate.training.emphasis import EmphasisConfig, emphasised_ids, repeated
from tidegate.training.evidence import MODALITY_OF_TASK
from tidegate.training.examples import Examples, Shard, prepared_steps
from tidegate.training.loop import fit
from tidegate.training.mixture import check_mixture, mixed
from tidegate.training.recipes import OptimiserConfig, customised, tiny_avlm
from tidegate.training.start import fused_as
from tidegate.training.swapping import SwapConfig, Swaps, swaps_of, with_part

ALL = SwapConfig(audio=1.0, vision=1.0, text=1.0)


def entries_of(examples: Examples, **truth: object) -> list[Entry]:
    """Entries of clips in memory; the truth is that of the violating ones."""
    return [
        Entry(video_id=video_id, path=Path("x"), labels={"icd": int(label)}, source_id=f"s{number}",
              truth=truth if label else {}, language="en")
        for number, (video_id, label) in enumerate(zip(examples.table.video_ids, examples.labels, strict=True))
    ]  # fmt: skip


def steps_of(examples: Examples, epoch: int = 0, pieces: int = 1):
    _, processor = small_avlm()
    rows = [np.arange(len(examples))]
    return next(iter(prepared_steps(examples, processor, rows, pieces=pieces, shard=Shard(), change=None,
                                    key=(0, epoch))))  # fmt: skip


def swapped(examples: Examples, config: SwapConfig, **truth: object) -> Examples:
    swaps = swaps_of(entries_of(examples, **truth), ("icd",), config, MODALITY_OF_TASK)
    return dataclasses.replace(examples, swaps=swaps)


def test_swapped_audio_is_a_harmless_givers_and_all_else_stays() -> None:
    examples = swapped(seen_and_heard(16, 1), SwapConfig(audio=1.0))
    (plain,), (changed,) = steps_of(dataclasses.replace(examples, swaps=None)), steps_of(examples)
    torch.testing.assert_close(changed.batch.pixels_NCHW, plain.batch.pixels_NCHW)
    torch.testing.assert_close(changed.targets.labels_BI, plain.targets.labels_BI)
    harmless = [n for n in range(16) if examples.labels[n] == 0]
    for number in range(16):
        heard = changed.batch.mel_BMF[number]
        own = torch.equal(heard, plain.batch.mel_BMF[number])
        givers = [n for n in harmless if n != number and torch.equal(heard, plain.batch.mel_BMF[n])]
        assert own == (examples.labels[number] == 1)
        assert bool(givers) == (examples.labels[number] == 0)
        for giver in givers:
            assert changed.batch.audio_positions_B[number] == plain.batch.audio_positions_B[giver]


def test_violating_clips_take_only_what_holds_none_of_their_known_evidence() -> None:
    examples = seen_and_heard(12, 2)
    known = swapped(examples, ALL, modalities=["vision"]).swaps
    unknown = swapped(examples, ALL).swaps
    assert isinstance(known, Swaps)
    assert isinstance(unknown, Swaps)
    violating = examples.labels == 1
    assert known.takers["audio"].all()
    assert (known.takers["vision"] == ~violating).all()
    assert (unknown.takers["audio"] == ~violating).all()
    both = swaps_of(entries_of(examples, modalities=["vision"]), ("icd", "ucc"), SwapConfig(), {})
    assert both is None


def test_half_of_a_conjunction_is_never_given() -> None:
    examples = dataclasses.replace(seen_and_heard(8, 3), labels=np.zeros(8, dtype=np.int64))
    entries = entries_of(examples)
    entries[0] = dataclasses.replace(entries[0], truth={"speech": {"theme": "offer", "text": "order now"}})
    entries[1] = dataclasses.replace(entries[1], truth={"things": ["pills"]})
    swaps = swaps_of(entries, ("icd",), ALL, {})
    assert swaps is not None
    assert swaps.givers[""].tolist() == [2, 3, 4, 5, 6, 7]


def test_a_giver_comes_from_another_source_and_of_the_same_language_where_there_is_one() -> None:
    examples = dataclasses.replace(seen_and_heard(9, 4), labels=np.zeros(9, dtype=np.int64))
    entries = [
        dataclasses.replace(entry, source_id=f"s{number // 3}", language=("de", "hi", "en")[number % 3])
        for number, entry in enumerate(entries_of(examples))
    ]
    swaps = swaps_of(entries, ("icd",), SwapConfig(text=1.0), {})
    assert swaps is not None
    for number in range(9):
        for seed in range(5):
            giver = swaps.drawn(number, np.random.default_rng(seed))["text"]
            assert giver // 3 != number // 3
            assert giver % 3 == number % 3


def test_auxiliary_targets_follow_the_modality_that_was_taken() -> None:
    examples = dataclasses.replace(
        seen_and_heard(10, 5), labels=np.zeros(10, dtype=np.int64), auxiliary={
            "sound": np.arange(10), "weapon": np.arange(10), "kind": np.arange(10)},
    )  # fmt: skip
    examples = swapped(examples, SwapConfig(audio=1.0))
    (plain,), (changed,) = steps_of(dataclasses.replace(examples, swaps=None)), steps_of(examples)
    for number, giver in enumerate(changed.targets.auxiliary["sound"].tolist()):
        assert giver != number
        torch.testing.assert_close(changed.batch.mel_BMF[number], plain.batch.mel_BMF[giver])
    assert changed.targets.auxiliary["weapon"].tolist() == list(range(10))
    assert changed.targets.auxiliary["kind"].tolist() == list(range(10))


def test_swaps_depend_on_seed_epoch_and_clip_and_not_on_batches() -> None:
    examples = swapped(seen_and_heard(12, 6), SwapConfig(audio=0.5))
    (whole,), parts = steps_of(examples), steps_of(examples, pieces=3)
    together = torch.cat([part.batch.mel_BMF for part in parts])
    torch.testing.assert_close(together, whole.batch.mel_BMF)
    assert not torch.equal(steps_of(examples, epoch=1)[0].batch.mel_BMF, whole.batch.mel_BMF)


def test_a_clip_keeps_its_own_where_one_of_the_two_has_none() -> None:
    table = seen_and_heard(2, 7).table
    mute = dataclasses.replace(table[0], mel_MF=None, num_mel_frames=0)
    assert with_part(mute, table[1], "audio") is mute
    assert with_part(table[1], mute, "audio") is table[1]


class Stopped(RuntimeError):
    pass


def test_resumed_run_with_swaps_and_emphasis_takes_the_same_steps(tmp_path: Path) -> None:
    train, validation = seen_and_heard(12, 8), seen_and_heard(8, 9)
    numbers = repeated(train.table.video_ids, {"c8-3", "c8-5"}, 3)
    train = dataclasses.replace(train, rows=train.rows[numbers], labels=train.labels[numbers])
    of = entries_of(seen_and_heard(12, 8))
    train = dataclasses.replace(train, swaps=swaps_of([of[n] for n in numbers], ("icd",), SwapConfig(audio=0.5), {}))
    config = OptimiserConfig(epochs=3, batch_size=4, learning_rate=1e-2, save_every_steps=1)
    change = AugmentConfig(corruption=0.5, shift_mel_frames=5)

    def run(resume: Path | None, stop: int | None = None):
        model, processor = small_avlm()

        def on_step(step: int, total: int, loss: float) -> None:
            if step == stop:
                raise Stopped

        result = fit(model, processor, train, validation, config, resume=resume, on_step=on_step,
                     change=lambda item, rng: augment(item, change, rng))  # fmt: skip
        return [record["loss"] for record in result.history], model.state_dict()

    losses, whole = run(None)
    with pytest.raises(Stopped):
        run(tmp_path / "r.pt", stop=6)
    again, resumed = run(tmp_path / "r.pt")
    assert again == losses
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def photo() -> ClipFeatures:
    ramp = np.broadcast_to(np.linspace(20, 230, 32)[None, :, None], (32, 32, 3)).astype(np.uint8)
    rng = np.random.default_rng(0)
    return ClipFeatures(
        frames_THWC=np.stack([ramp, ramp]), mel_MF=rng.normal(0.3, 0.2, (16, 100)).astype(np.float32),
        num_mel_frames=60, token_ids=np.arange(4),
    )  # fmt: skip


def test_corruption_grows_with_its_strength_and_leaves_the_cache_and_padding_alone() -> None:
    original, untouched = photo(), photo()

    def harm(strength: float) -> tuple[float, float]:
        made = [corrupted(original, strength, np.random.default_rng(seed)) for seed in range(40)]
        assert all(one.token_ids is original.token_ids for one in made)
        pictures = [np.abs(one.frames_THWC.astype(float) - original.frames_THWC).mean() for one in made]
        sounds = [np.abs(one.mel_MF - original.mel_MF)[:, :60].mean() for one in made]
        return float(np.mean(pictures)), float(np.mean(sounds))

    (mild, faint), (strong, loud) = harm(0.2), harm(1.0)
    assert 0 < mild < strong
    assert 0 < faint < loud
    np.testing.assert_array_equal(original.frames_THWC, untouched.frames_THWC)
    np.testing.assert_array_equal(original.mel_MF, untouched.mel_MF)
    made = [corrupted(original, 1.0, np.random.default_rng(seed)) for seed in range(20)]
    assert all((one.mel_MF[0, 60:] == original.mel_MF[0, 60:]).all() for one in made)


def test_noise_adds_the_power_that_its_ratio_says() -> None:
    flat = dataclasses.replace(photo(), mel_MF=np.full((16, 100), 0.5, np.float32))
    most = 0.0
    for seed in range(60):
        heard = corrupted(flat, 1.0, np.random.default_rng(seed)).mel_MF[:5, :60].astype(float)
        added = (10 ** (4 * heard - 4)).mean() / 10 ** (4 * 0.5 - 4) - 1
        assert added <= 1.25  # a ratio of 0 dB at the very worst
        most = max(most, added)
    assert most > 0.2


def test_augmentation_corrupts_its_share_and_none_draws_nothing() -> None:
    off = AugmentConfig(modality_dropout=0, flip=0, shift_pixels=0, brightness=0, gain_db=0, shift_mel_frames=0,
                        mel_masks=0, token_dropout=0)  # fmt: skip
    half = dataclasses.replace(off, corruption=0.5)
    changed = [
        not np.array_equal(augment(photo(), half, np.random.default_rng(s)).frames_THWC, photo().frames_THWC)
        or not np.array_equal(augment(photo(), half, np.random.default_rng(s)).mel_MF, photo().mel_MF)
        for s in range(200)
    ]
    assert 70 < sum(changed) < 130
    plain = [augment(photo(), AugmentConfig(), np.random.default_rng(3)).mel_MF for _ in range(2)]
    np.testing.assert_array_equal(plain[0], plain[1])


def test_towers_that_run_once_see_the_same_corrupted_share_each_time() -> None:
    table = CorruptedTable(table=ListTable(tuple("abcdefgh"), (photo(),) * 8), share=0.5, strength=1.0, seed=4)
    first, again = ([table[row].frames_THWC for row in range(8)] for _ in range(2))
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert 0 < sum((one != photo().frames_THWC).any() for one in first) < 8


def test_emphasised_videos_are_seen_as_often_as_was_said() -> None:
    examples = seen_and_heard(6, 1)
    recipe = customised("tiny-avlm", ["icd"], emphasis=EmphasisConfig(times=4, where=("language=hi",)))
    entries = [dataclasses.replace(entry, language="hi" if number in (1, 4) else "en")
               for number, entry in enumerate(entries_of(examples))]  # fmt: skip
    made = mixed(examples, entries, recipe, init=None)
    assert np.bincount(made.examples.rows).tolist() == [1, 4, 1, 1, 4, 1]
    assert (made.examples.labels == examples.labels[made.examples.rows]).all()
    assert made.notes == ("2 of 6 training videos are seen 4 times an epoch (language=hi)",)
    assert mixed(examples, entries, tiny_avlm(), init=None).examples is examples


def test_listed_ids_must_be_training_videos(tmp_path: Path) -> None:
    entries = entries_of(seen_and_heard(3, 1))
    (tmp_path / "ids.txt").write_text("c1-0\n\nc1-2\n")
    assert emphasised_ids(entries, EmphasisConfig(ids=tmp_path / "ids.txt")) == {"c1-0", "c1-2"}
    (tmp_path / "ids.txt").write_text("c1-0\nof-the-test-split\n")
    with pytest.raises(ManifestError, match="of-the-test-split"):
        emphasised_ids(entries, EmphasisConfig(ids=tmp_path / "ids.txt"))
    with pytest.raises(ManifestError, match="expected video ids"):
        emphasised_ids(entries, EmphasisConfig(ids=tmp_path / "none.txt"))
    with pytest.raises(ManifestError, match="language=xx"):
        emphasised_ids(entries, EmphasisConfig(where=("language=xx",)))


@pytest.mark.parametrize("to", ["early", "none"])
def test_another_fusion_keeps_towers_and_language_model_and_names_what_is_new(to: str) -> None:
    model, processor = small_avlm()
    changed, reading, said = fused_as(model, processor, to, seed=1)  # type: ignore[arg-type]
    old, new = model.state_dict(), changed.state_dict()
    kept = [name for name in new if name in old and old[name].shape == new[name].shape]
    assert all(torch.equal(old[name], new[name]) for name in kept)
    assert {name for name in new if name not in kept} == {
        "early": {"head.weight", *(f"audio_projector.linear_{n}.{p}" for n in (1, 2) for p in ("weight", "bias"))},
        "none": {"head.weight"},
    }[to]
    assert "head.weight" in said
    assert f"fusion late became {to}" in said
    assert reading.config.modalities == changed.config.modalities
    with torch.inference_mode():
        assert changed(reading.collate([seen_and_heard(1, 1).table[0]])).isfinite().all()


def test_fusion_that_cannot_be_is_refused_and_the_same_one_changes_nothing() -> None:
    model, processor = small_avlm()
    assert fused_as(model, processor, "late", 0)[0] is model
    deaf, reading, _ = fused_as(model, processor, "none", 0)
    with pytest.raises(ConfigError, match="without an audio tower"):
        fused_as(deaf, reading, "late", 0)
    with pytest.raises(ConfigError, match="modalities that the model uses"):
        check_mixture(customised("tiny-avlm", ["icd"], swap=SwapConfig(audio=0.5)), reading.config.modalities,
                      init=None, live=False, taught=False)  # fmt: skip


@pytest.mark.parametrize("wrong", [
    lambda: SwapConfig(audio=1.5), lambda: SwapConfig(text=float("nan")), lambda: AugmentConfig(modality_dropout=-0.1),
    lambda: AugmentConfig(corruption=2.0), lambda: AugmentConfig(corruption_strength=0.0),
    lambda: EmphasisConfig(times=0), lambda: EmphasisConfig(where=("colour=red",)),
    lambda: EmphasisConfig(where=("language",)),
    lambda: swaps_of(entries_of(seen_and_heard(1, 1)), ("icd",), ALL, {}),
    lambda: check_mixture(customised("tiny-avlm", ["icd"], swap=SwapConfig(text=0.5)), ("text",), init=None,
                          live=False, taught=True),
    lambda: check_mixture(customised("tiny-avlm", ["icd"], emphasis=EmphasisConfig(missed_at="20")), ("text",),
                          init=None, live=False, taught=False),
])  # fmt: skip
def test_nonsense_is_refused(wrong) -> None:
    with pytest.raises(ConfigError, match="expected"):
        wrong()


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Real small videos, a fifth of them Hindi, and an AVLM to start from."""
    folder = tmp_path_factory.mktemp("ideas")
    plain = read_manifest(small_corpus(folder))
    spoken = [dataclasses.replace(entry, language="hi" if number % 5 == 0 else "en")
              for number, entry in enumerate(plain)]  # fmt: skip
    manifest = folder / "spoken.csv"
    write_manifest(Manifest(entries=tuple(spoken)), manifest)
    model, processor = small_avlm(dataclasses.replace(AVLM, language_head=False))
    save_checkpoint(model, processor, folder / "start", Card(name="start", issue="icd"))
    return manifest, folder / "start"


IDEAS = {
    "modality_dropout": lambda recipe: recipe["augment"]["modality_dropout"] == 0.3,
    "early_fusion": lambda recipe: recipe["fusion"] == "early",
    "swapped_training": lambda recipe: recipe["swap"] == {"audio": 0.3, "vision": 0.3, "text": 0.3},
    "augmentation": lambda recipe: recipe["augment"]["corruption"] == 0.5,
    "locale_data": lambda recipe: recipe["emphasis"]["where"] == ["language=hi"],
}


@pytest.mark.parametrize("name", sorted(IDEAS))
def test_commands_of_interventions_train_with_the_idea_in_them(name: str, small_set, tmp_path: Path) -> None:
    manifest, start = small_set
    context = Context(data=str(manifest), checkpoint=str(start), out=str(tmp_path), locale="language=hi")
    words = shlex.split(REGISTRY[name].command(context))
    more = ["--epochs", "1", "--batch-size", "4", "--threads", "1", "--cache", str(manifest.parent / "cache"), "--json"]
    result = CliRunner().invoke(app, [*words[1:], *more])
    assert result.exit_code == 0, result.output
    _, _, card = load_checkpoint(tmp_path / name)
    assert IDEAS[name](json.loads(json.dumps(card.recipe)))
    said = {"early_fusion": "fusion late became early", "swapped_training": "harmless training videos are swapped in",
            "locale_data": "seen 3 times an epoch (language=hi)"}.get(name, "")  # fmt: skip
    assert said in " ".join(card.notes)


def test_videos_that_the_starting_checkpoint_misses_are_seen_more_often(small_set, tmp_path: Path) -> None:
    manifest, _ = small_set
    base, cache = tmp_path / "base", str(manifest.parent / "cache")
    plain = ["train", "base", "--data", str(manifest), "--epochs", "1", "--threads", "1", "--cache", cache]
    assert CliRunner().invoke(app, [*plain, "--out", str(base)]).exit_code == 0
    thresholds = json.loads((base / "thresholds.json").read_text())
    context = Context(data=str(manifest), base=str(base), out=str(tmp_path), p_base="20")
    words = [*shlex.split(REGISTRY["hard_positives"].command(context))[1:], *plain[4:]]
    thresholds["escalate"]["20"] = 0.0
    (base / "thresholds.json").write_text(json.dumps(thresholds))
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "found none" in refused.output
    thresholds["escalate"]["20"] = 1.0
    (base / "thresholds.json").write_text(json.dumps(thresholds))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    _, _, card = load_checkpoint(tmp_path / "hard_positives")
    assert "3 of 6 training videos are seen 3 times an epoch (missed at base precision 20 %)" in card.notes


def test_every_training_says_what_it_leaves_to_people_or_holds_its_idea() -> None:
    for one in REGISTRY.values():
        if isinstance(one, Training):
            assert one.switches or one.prepares or one.by_hand or one.follows_large, one.name
    nowhere = REGISTRY["locale_data"]
    assert isinstance(nowhere, Training)
    assert "--emphasise-where" not in nowhere.command(Context())
    assert "the plan names no locale" in nowhere.left_over(Context())
