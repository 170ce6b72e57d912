"""All interventions by name, with what they cost.

Enters: nothing. Leaves: ``REGISTRY``, which has an entry for every name that the taxonomy knows (a test holds that).
Costs are efforts relative to one change of configuration; they order recommendations and are no prices.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tidegate.diagnosis.interventions.base import Intervention
from tidegate.diagnosis.interventions.rescoring import Rescore
from tidegate.diagnosis.interventions.settings import (
    Calibrate,
    Deduplicate,
    LowerTau,
    QualityGate,
    Relabel,
    SimilarityMemory,
    SliceThreshold,
)
from tidegate.diagnosis.interventions.training import Training
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["REGISTRY", "of_class"]

_C = FailureClass


def _settings() -> tuple[Intervention, ...]:
    return (
        Deduplicate(name="deduplicate", summary="drop near-duplicates of other splits", classes=(_C.LEAKAGE,)),
        LowerTau(name="lower_tau", summary="escalate more", classes=(_C.CASCADE_DROP,), cost=2.0),
        LowerTau(name="lower_tau_slice", summary="escalate more where drops gather", classes=(_C.CASCADE_DROP,),
                 by_slice=True),
        SliceThreshold(name="slice_threshold", summary="a threshold for each slice", classes=(_C.THRESHOLD,)),
        SliceThreshold(name="locale_threshold", summary="a threshold for each language or region",
                       classes=(_C.LOCALE,), columns=("language", "region")),
        SliceThreshold(name="clause_threshold", summary="a threshold for each policy clause", classes=(_C.POLICY,),
                       columns=("clause",)),
        Calibrate(name="calibrate", summary="calibrate the scores of each slice", classes=(_C.THRESHOLD,)),
        Relabel(name="relabel", summary="look at suspected labels again", classes=(_C.LABEL,), cost=2.0),
        QualityGate(name="quality_gate", summary="send corrupt items to people", classes=(_C.CORRUPTION,)),
        SimilarityMemory(name="similarity_memory", summary="remember labelled errors", classes=(_C.NOVELTY,), cost=2.0),
    )  # fmt: skip


def _rescored() -> tuple[Intervention, ...]:
    return (
        Rescore(name="retry_serving", summary="score items with a serving note again, with wider limits",
                classes=(_C.SERVING,), probes=("retry",), cost=1.0, noted_only=True),
        Rescore(name="feed_text", summary="give recognised speech and on-screen text to the model",
                classes=(_C.MODALITY_PERCEPTION,), probes=("transcript_recognised", "transcript_gold", "text_gold")),
        Rescore(name="more_frames", summary="four times the frames", classes=(_C.TEMPORAL,), probes=("frames_more",),
                cost=4.0),
        Rescore(name="frame_window", summary="frames of the densest window", classes=(_C.TEMPORAL,),
                probes=("frames_window",), cost=2.0),
        Rescore(name="resolution", summary="twice the resolution", classes=(_C.SPATIAL,), probes=("resolution_up",),
                cost=4.0),
        Rescore(name="tiling", summary="tiles at full resolution", classes=(_C.SPATIAL,), probes=("crops",), cost=4.0),
        Rescore(name="enhancement", summary="denoise and enhance before scoring", classes=(_C.CORRUPTION,),
                probes=("clean",)),
        Rescore(name="translate", summary="translate what is said and written", classes=(_C.LOCALE,),
                probes=("translated_recognised", "translated_gold"), cost=4.0),
        Rescore(name="policy_text", summary="judge by the other policy version", classes=(_C.POLICY,),
                probes=("policy_other",), cost=2.0),
    )  # fmt: skip


def _trained() -> tuple[Intervention, ...]:
    perceived, fused = (_C.MODALITY_PERCEPTION,), (_C.MODALITY_IGNORED, _C.CROSS_MODAL)
    return (
        Training(name="hard_positives", summary="train the base stage on the positives it dropped", stage="base",
                 classes=(_C.CASCADE_DROP,), cost=6.0, switches=("--emphasise-missed", "{p_base}", "--emphasis", "3")),
        Training(name="distil", summary="teach the base stage by the large one's soft scores", stage="base",
                 classes=(_C.CASCADE_DROP,), cost=6.0, follows_large=True),
        Training(name="modality_dropout", summary="train with modalities left out at random",
                 classes=(_C.MODALITY_IGNORED,), switches=("--modality-dropout", "0.3")),
        Training(name="modality_tuning", summary="tune on items that only the ignored modality decides",
                 classes=(_C.MODALITY_IGNORED,), cost=12.0, prepares="items whose evidence is in that modality alone"),
        Training(name="early_fusion", summary="fuse modalities before the language model", classes=fused, cost=20.0,
                 switches=("--fusion", "early")),
        Training(name="alignment_hours", summary="more hours of paired audio and text", classes=perceived, cost=16.0,
                 by_hand="tidegate train align writes the checkpoint to give as --init"),
        Training(name="stronger_encoder", summary="a stronger audio, vision or text encoder", classes=perceived,
                 cost=20.0, by_hand="choose it: --vl and --audio-encoder instead of --init"),
        Training(name="swapped_training", summary="train on clips with another clip's audio, frames or texts",
                 classes=(_C.CROSS_MODAL,),
                 switches=("--swap-audio", "0.3", "--swap-vision", "0.3", "--swap-text", "0.3")),
        Training(name="conflict_data", summary="collect items whose modalities disagree", classes=(_C.CROSS_MODAL,),
                 cost=16.0, prepares="labelled items whose modalities disagree"),
        Training(name="temporal_tuning", summary="tune on items that only order decides", classes=(_C.TEMPORAL,),
                 cost=12.0, prepares="items and the same with their order changed"),
        Training(name="augmentation", summary="train with noise, blur and low bit rates", classes=(_C.CORRUPTION,),
                 switches=("--corruption", "0.5", "--corruption-strength", "0.5")),
        Training(name="locale_data", summary="collect and train on the locale's items", classes=(_C.LOCALE,), cost=16.0,
                 prepares="labelled items of the locale",
                 switches=("--emphasise-where", "{locale}", "--emphasis", "3")),
        Training(name="policy_tuning", summary="tune on decisions under the policy in force", classes=(_C.POLICY,),
                 prepares="labels under the policy in force"),
        Training(name="collect_similar", summary="collect and label items like the novel ones", classes=(_C.NOVELTY,),
                 cost=16.0, prepares="labelled items near the novel ones"),
    )  # fmt: skip


REGISTRY: Mapping[str, Intervention] = MappingProxyType(
    {one.name: one for one in (*_settings(), *_rescored(), *_trained())}
)
"""Name → intervention."""


def of_class(failure: FailureClass) -> tuple[Intervention, ...]:
    """Interventions that can cure a class, cheapest first."""
    return tuple(sorted((one for one in REGISTRY.values() if failure in one.classes), key=lambda one: one.cost))
