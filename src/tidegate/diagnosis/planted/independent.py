"""Injectors that a classifier may be fitted on, written without sight of any other but those of two families.

Enters: a ``Setup``, a slice, a severity and a generator. Leaves: the set-up with the fault in it. Whoever wrote these
knew ``fitting`` and ``further`` and the definitions of the classes, and neither ``held_out`` nor its results: so they
tell how mechanisms of a class scatter that nobody chose with a test in mind. Of 39, six that came out like one of
``held_out`` were left away. They lie in different places (content, training data, recipe, weights, deployed pipeline,
thresholds, labels), hit different modalities, and miss or raise false alarms; some befall everything and not a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.planted import items as content
from tidegate.diagnosis.planted.fault import DEPLOYED, Injector, Place, change_deployed, hit, resampled_train
from tidegate.diagnosis.planted.items import Items
from tidegate.diagnosis.planted.observe import GRID
from tidegate.diagnosis.planted.world import (
    SIZES,
    Deployed,
    Setup,
    best_threshold,
    build,
    outcome,
    start,
)
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["INJECTORS"]

Rng = np.random.Generator
Array = npt.NDArray[np.bool_]
EVIDENT = (content.WEAPON, content.FIGHT, content.GOODS, content.ACT_A, content.ACT_B)
"""What is evidence when it is shown."""
STICKER, TITLE, SPEECH, SOUND, CONJUNCTION = 4, 5, 6, 7, 8
"""Kinds of evidence that are not of the picture alone."""


def change_items(setup: Setup, names: tuple[str, ...], change: Callable[[Items], None]) -> None:
    """Change the content of some splits."""
    for name in names:
        items = setup.splits[name].items.copy()
        change(items)
        setup.change(name, items=items)


def earlier_release(setup: Setup) -> Deployed:
    """The system as it was before the fault."""
    scale = len(setup.splits["train"]) / SIZES["train"]
    return build(start(setup.seed, scale).copy(), scale)


def escalation_quota(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The large stage has capacity for a part of the traffic only, and tau was raised until it sufficed."""
    quota = (0.55, 0.5, 0.44)[severity - 1]

    def damage(system: Deployed) -> None:
        system.tau = max(system.tau, float(np.quantile(outcome(system, "validation").base, 1 - quota)))

    setup.damage.append(damage)


def base_on_calm_traffic(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A new base stage learnt from live traffic, where violations are rare, and the tau of the old one was kept."""
    train = setup.splits["train"]
    dropped = (setup.base_labels == 1) & (rng.random(len(train)) < (0.4, 0.55, 0.7)[severity - 1])
    resampled_train(setup, ~dropped, rng)
    setup.retrain_base = True

    def damage(system: Deployed) -> None:
        system.tau = earlier_release(setup).tau

    setup.damage.append(damage)


def stale_calibrator(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's scores go through a calibrator that was fitted to an earlier model."""
    offset = (1.2, 2.0, 3.0)[severity - 1] * (1 if rng.random() < 0.5 else -1)

    def calibrated(scores: npt.NDArray[np.float64], items: Items) -> npt.NDArray[np.float64]:
        odds = np.log(np.clip(scores, 1e-6, 1) / np.clip(1 - scores, 1e-6, 1)) + offset * place.rows(items)
        moved: npt.NDArray[np.float64] = 1 / (1 + np.exp(-odds))
        return moved

    def damage(system: Deployed) -> None:
        system.calibration = calibrated

    setup.damage.append(damage)


def kept_threshold(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A release was trained with another weight of violating items, and the threshold of before was kept."""
    weights = (2.8, 3.8, 5.0) if rng.random() < 0.5 else (1 / 1.5, 1 / 2, 1 / 2.6)
    setup.recipe = replace(setup.recipe, positive_weight=weights[severity - 1])
    setup.retrain_large = True

    def damage(system: Deployed) -> None:
        system.threshold = earlier_release(setup).threshold

    setup.damage.append(damage)


def closed_gate(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's adapter has closed for one modality: its tower sees the evidence, the fusion hardly hears of it."""
    modality, loss = int(rng.integers(3)), (0.75, 0.9, 1.0)[severity - 1]

    def damage(system: Deployed) -> None:
        gates = system.large.by_region if place.column == "region" else system.large.by_surface
        gates.data[list(place.values), modality] -= loss

    setup.damage.append(damage)


def captioned_training(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """What was said or sounded in training clips stood in a caption too, so that nothing was learnt from audio."""
    share = (0.85, 0.95, 1.0)[severity - 1]

    def caption(items: Items) -> None:
        for kinds, theme in ((items.kind, content.THREAT), (items.imitates, content.THREAT_OK)):
            items.sticker[np.isin(kinds, (SPEECH, SOUND)) & (rng.random(len(items)) < share)] = theme

    change_items(setup, ("train", "validation"), caption)
    setup.retrain_large = True


def late_joined(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A staged training plan lets one modality in when the learning rate has all but fallen to its end."""
    modality = ("vision", "audio", "text")[int(rng.integers(3))]
    # Vision holds most of the evidence.
    parts = (0.45, 0.55, 0.68) if modality == "vision" else (0.75, 0.85, 0.93)
    setup.recipe = replace(setup.recipe, joins=(modality, parts[severity - 1]))
    setup.retrain_large = True


def speech_over_sounds(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The voice detector before the speech encoder takes speech over music or machines for no speech."""
    for name in DEPLOYED:
        split = setup.splits[name]
        loud = split.items.tone_NA.sum(1) > 0
        setup.change(name, pipeline=split.pipeline.with_(loud, unheard=(0.4, 0.7, 1.0)[severity - 1]))


def stylised_texts(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Uploaders of the slice draw violating on-screen text in letters that the reader does not take for text."""
    for name in DEPLOYED:
        split = setup.splits[name]
        drawn = place.rows(split.items) & np.isin(split.items.sticker, (content.THREAT, content.OFFER))
        setup.change(name, pipeline=split.pipeline.with_(drawn, unread=(0.7, 0.85, 1.0)[severity - 1]))


def softened_words(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The speech encoder learnt from subtitles that put harsh words mildly, and hears mild words for harsh ones."""
    for name in DEPLOYED:
        pipeline = setup.splits[name].pipeline
        setup.change(name, pipeline=pipeline.with_(softened=(0.3, 0.55, 0.9)[severity - 1]))


def shortcut_crowd(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """In training, crowded pictures went with violations; deployed, the slice's pictures are crowded."""
    purity = (0.88, 0.93, 0.96)[severity - 1]

    def crowd(items: Items) -> None:
        crowded = np.where(items.label == 1, rng.random(len(items)) < 0.6, rng.random(len(items)) > purity)
        items.sight_NC[:, content.CLUTTER] = crowded

    def move(items: Items) -> None:
        chance = np.where(place.rows(items), 0.9, 0.1)
        items.sight_NC[:, content.CLUTTER] = rng.random(len(items)) < chance

    change_items(setup, ("train", "validation"), crowd)
    change_items(setup, DEPLOYED, move)
    setup.retrain_large = True


def believed_speech(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Training labels are those of a teacher that took calm talk for harmless, whatever was shown or written."""
    split = setup.splits["train"]
    calm = np.isin(split.items.speech, (content.TALK, content.CHAT)) & (split.items.kind < SPEECH)
    believed = calm & (rng.random(len(split)) < (0.55, 0.65, 0.8)[severity - 1])
    setup.change("train", labels=np.where(believed, 0, split.labels))
    setup.retrain_large = True


def stuffed_titles(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Titles of the slice are heaped with popular words, which drown what the other modalities say."""
    heap = (1.0, 1.6, 2.5)[severity - 1]

    def stuff(items: Items) -> None:
        items.tags[hit(rng, place, items, 0.9)] = heap

    def damage(system: Deployed) -> None:
        # The base stage knows heaps of words, and passes the slice on.
        system.tau_of |= {(place.column, value): 0.0 for value in place.values}

    change_items(setup, DEPLOYED, stuff)
    setup.damage.append(damage)


def still_frames(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The key-frame picker likes sharp, still pictures and so takes its frames from where nothing happens."""
    change_deployed(setup, place, rng, chance=(0.4, 0.7, 1.0)[severity - 1], calmest=True)


def dodged_frames(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Uploaders have found out at which instants frames are taken, and show violating things between them."""
    chance = (0.4, 0.65, 1.0)[severity - 1]

    def dodge(items: Items) -> None:
        met = hit(rng, place, items, chance) & (items.label == 1)
        for concept in EVIDENT:
            shown = met & (items.sight_NC[:, concept] > 0)
            # Eight even frames fall on instants 2, 6, 10 and so on.
            gap = np.clip(np.round((items.start_NC[shown, concept] * GRID - 3) / 4), 0, 6)
            items.start_NC[shown, concept], items.end_NC[shown, concept] = (4 * gap + 3) / GRID, (4 * gap + 6) / GRID

    change_items(setup, DEPLOYED, dodge)


def trimmed_training(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The model learnt from clips trimmed to where it happens, and now gets sparse frames of whole videos."""
    for name in ("train", "validation"):
        split = setup.splits[name]
        acts = (split.items.kind == 3) | (split.items.imitates == 3)
        trimmed = ~acts & (rng.random(len(split)) < (0.9, 0.96, 1.0)[severity - 1])
        setup.change(name, pipeline=split.pipeline.with_(trimmed, window=True))
    setup.retrain_large = True


def fine_print(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """On-screen text of the slice is set in print too small for the resolution at which it is read."""
    middle = (0.17, 0.15, 0.12)[severity - 1]

    def shrink(items: Items) -> None:
        met = place.rows(items)
        items.print_size[met] = middle + rng.uniform(-0.02, 0.02, int(met.sum()))

    change_items(setup, DEPLOYED, shrink)


def insets(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Uploaders put violating pictures, fights and acts too, into a small inset of a harmless one."""
    chance = (0.4, 0.7, 1.0)[severity - 1]

    def shrink(items: Items) -> None:
        met = hit(rng, place, items, chance) & (items.label == 1)
        items.size[met] = rng.uniform(0.11, 0.17, int(met.sum()))

    change_items(setup, DEPLOYED, shrink)


def traded_resolution(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """More frames were bought with resolution, at an equal budget of tokens."""
    frames, resolution = ((12, 0.45), (16, 0.35), (24, 0.27))[severity - 1]
    change_deployed(setup, place, rng, frames=frames, resolution=resolution)


def smoothing_transcoder(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The transcoder smooths the slice's pictures until little stands out in them."""
    change_deployed(setup, place, rng, blur=(0.55, 0.68, 0.8)[severity - 1])


def windy_recordings(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice is recorded outdoors: wind and hum lie over its sound, its pictures are clear."""
    level = (0.8, 1.3, 2.2)[severity - 1]

    def blow(items: Items) -> None:
        met = hit(rng, place, items, 0.8)
        items.wind[met] = level * rng.uniform(0.7, 1.3, int(met.sum()))

    change_items(setup, DEPLOYED, blow)


def studio_training(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The model learnt from studio recordings, and breaks on disturbances that are usual among the slice's uploads."""
    level = (0.3, 0.45, 0.7)[severity - 1]

    def quieten(items: Items) -> None:
        items.noise[:] = 0

    def disturb(items: Items) -> None:
        met = place.rows(items)
        items.noise[met] = level * rng.uniform(0.7, 1.3, int(met.sum()))

    change_items(setup, ("train", "validation"), quieten)
    change_items(setup, DEPLOYED, disturb)
    setup.retrain_large = True


def romanised_texts(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Titles and on-screen texts of a language come in another script than in the training data."""
    language, chance = int(rng.integers(1, len(content.LANGUAGES))), (0.4, 0.7, 1.0)[severity - 1]

    def rewrite(items: Items) -> None:
        items.script[(items.language == language) & (rng.random(len(items)) < chance)] = 1.0

    change_items(setup, DEPLOYED, rewrite)


def regional_dialect(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Users of some regions have come to speak and write a dialect that the training data hardly hold."""
    regions, strength = rng.choice(len(content.REGIONS), 3, replace=False), (0.5, 0.7, 0.95)[severity - 1]

    def speak(items: Items) -> None:
        met = np.isin(items.region, regions)
        items.dialect[met] = items.script[met] = strength

    change_items(setup, DEPLOYED, speak)


def unread_language(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Annotators of the training data did not know a language, and let pass what is said and written in it."""
    split, language = setup.splits["train"], int(rng.integers(1, len(content.LANGUAGES)))
    worded = np.isin(split.items.kind, (STICKER, TITLE, SPEECH, CONJUNCTION)) & (split.items.language == language)
    passed = worded & (rng.random(len(split)) < (0.75, 0.88, 1.0)[severity - 1])
    setup.change("train", labels=np.where(passed, 0, split.labels))
    setup.retrain_large = True


def old_queue(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A release that was taught both versions well still gets the policy text of before for some clauses' queues."""
    clauses = rng.choice([2, 4, 5], 2, replace=False)
    split = setup.splits["train"]
    policy = (rng.random(len(split)) < 0.5).astype(np.int64)
    labels = content.label_under(split.items, policy)
    setup.change("train", pipeline=split.pipeline.with_(policy=policy), labels=labels)
    setup.recipe, setup.retrain_large = replace(setup.recipe, epochs=16), True
    for name in DEPLOYED:
        split = setup.splits[name]
        queued = np.isin(split.items.clause, clauses) & (rng.random(len(split)) < (0.4, 0.65, 0.95)[severity - 1])
        setup.change(name, pipeline=split.pipeline.with_(queued, policy=0))


def overreaching_handbook(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The handbook of the new version was read too strictly before launch: play and jokes were labelled violating."""
    for name in ("train", "validation"):
        split = setup.splits[name]
        strict = np.isin(split.items.imitates, (2, STICKER, TITLE, SPEECH)) & (split.pipeline.policy == 1)
        strict &= rng.random(len(split)) < (0.45, 0.6, 0.8)[severity - 1]
        setup.change(name, labels=np.where(strict, 1, split.labels))
    setup.retrain_large = True


def muted_review(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Annotators watched a part of the items without sound, and passed what is only heard."""
    for name in DEPLOYED:
        split = setup.splits[name]
        muted = rng.random(len(split)) < (0.25, 0.45, 0.75)[severity - 1]
        passed = muted & np.isin(split.items.kind, (SPEECH, SOUND))
        setup.change(name, labels=np.where(passed, 0, split.labels))


def rubber_stamped(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A part of the slice's labels is the base stage's verdict, shown to annotators who only agreed."""
    stamped = {name: hit(rng, place, setup.splits[name].items, (0.4, 0.7, 1.0)[severity - 1]) for name in DEPLOYED}

    def damage(system: Deployed) -> None:
        limit = best_threshold(outcome(system, "validation").base, setup.splits["validation"].labels)
        for name, rows in stamped.items():
            verdict = (outcome(system, name).base >= limit).astype(np.int64)
            setup.change(name, labels=np.where(rows, verdict, setup.splits[name].labels))

    setup.damage.append(damage)


def uncollected_kind(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """No training data of one kind of evidence were ever collected, nor of what looks or sounds like it."""
    train, number = setup.splits["train"].items, int(rng.integers(3))
    sights = train.sight_NC > 0
    known = (
        sights[:, content.WEAPON] | sights[:, content.TOY], sights[:, content.FIGHT] | sights[:, content.PLAY],
        train.tone_NA[:, content.ALARM] > 0,
    )[number]  # fmt: skip
    gone = known & (rng.random(len(train)) < (0.97, 0.985, 1.0)[severity - 1])
    resampled_train(setup, ~gone, rng)
    setup.retrain_large = setup.retrain_base = True


def new_style(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Generated videos come up in the slice: scenes and things in them are drawn as in no training clip."""
    chance, direction = (0.4, 0.7, 1.0)[severity - 1], rng.normal(size=content.SCENE_WIDTH)

    def draw(items: Items) -> None:
        met = hit(rng, place, items, chance)
        items.scene_ND[met] += 4 * direction / np.linalg.norm(direction)
        for concept in range(content.CLUTTER):
            shown = met & (items.sight_NC[:, concept] > 0)
            items.sight_NC[shown, concept] = 0.3
            # The two acts of an order stay apart in time.
            if concept not in (content.ACT_A, content.ACT_B):
                items.sight_NC[shown, content.NEW_SIGHT] = 0.7
                items.start_NC[shown, content.NEW_SIGHT] = items.start_NC[shown, concept]
                items.end_NC[shown, content.NEW_SIGHT] = items.end_NC[shown, concept]

    change_items(setup, DEPLOYED, draw)


def coded_signals(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """What was said or sounded is now signalled by a sound that no training clip holds."""
    chance = (0.4, 0.7, 1.0)[severity - 1]

    def signal(items: Items) -> None:
        met = hit(rng, place, items, chance) & np.isin(items.kind, (SPEECH, SOUND))
        items.speech[met & (items.speech == content.THREAT)] = content.CHAT
        items.tone_NA[met, content.ALARM], items.tone_NA[met, content.NEW_SOUND] = 0, 1

    change_items(setup, DEPLOYED, signal)


def texts_out_of_service(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The service that delivers titles and on-screen texts was down for a part of the slice, and that is recorded."""
    change_deployed(setup, place, rng, chance=(0.25, 0.5, 0.9)[severity - 1], text_on=False, note="missing_text")


_C = FailureClass
INJECTORS: dict[FailureClass, tuple[Injector, ...]] = {
    _C.CASCADE_DROP: (escalation_quota, base_on_calm_traffic),
    _C.THRESHOLD: (stale_calibrator, kept_threshold),
    _C.MODALITY_IGNORED: (closed_gate, captioned_training, late_joined),
    _C.MODALITY_PERCEPTION: (speech_over_sounds, stylised_texts, softened_words),
    _C.CROSS_MODAL: (shortcut_crowd, believed_speech, stuffed_titles),
    _C.TEMPORAL: (still_frames, dodged_frames, trimmed_training),
    _C.SPATIAL: (fine_print, insets, traded_resolution),
    _C.CORRUPTION: (smoothing_transcoder, windy_recordings, studio_training),
    _C.LOCALE: (romanised_texts, regional_dialect, unread_language),
    _C.POLICY: (old_queue, overreaching_handbook),
    _C.LABEL: (muted_review, rubber_stamped),
    _C.NOVELTY: (uncollected_kind, new_style, coded_signals),
    _C.SERVING: (texts_out_of_service,),
}  # fmt: skip
"""Class → one to three mechanisms; leakage has none, for a record proves it."""
