"""Scores, costs and labels → which stage decides, against which threshold, under which promise."""

from tidegate.cascade.budget import BudgetConfig, BudgetController
from tidegate.cascade.cascade import Cascade, Escalate, Simulated, StageSpec
from tidegate.cascade.certificates import Audit, Certificate, Missing, certify_finite, certify_recall, read_audit
from tidegate.cascade.deferral import DeferralModel, GainModel, fit_deferral, fit_gain
from tidegate.cascade.drift import AlarmConfig, DriftAlarm, DriftEvent, DriftGuard, expected_delay, is_audited
from tidegate.cascade.joint import certify, certify_joint, certify_precision
from tidegate.cascade.monitors import ScoreMonitor, Shift
from tidegate.cascade.plan import AuditPlan, audit_plan
from tidegate.cascade.production import ProductionRecall, Stratum, neyman, pooled_recall
from tidegate.cascade.regions import RegionThreshold, region_thresholds
from tidegate.cascade.reuse import Window, certify_stream, certify_window, read_window
from tidegate.cascade.routing import (
    AnyOf,
    BudgetRule,
    CertifiedRule,
    EntropyRule,
    LearnedDeferral,
    PrecisionRule,
    RegionRule,
    Route,
    Rule,
    ViewRule,
    binary_entropy,
    route_batch,
    thresholds_from_validation,
)
from tidegate.cascade.sequential import SequentialAudit, SequentialState
from tidegate.cascade.shadow_price import PricedPlan, TableRule, plan_for_budget, plan_for_price
from tidegate.cascade.slices import certify_slices, verify_slices
from tidegate.cascade.stages import CachedStage, FunctionStage, Stage
from tidegate.cascade.tuner import DynamicTuner, TunerConfig, TunerStep

__all__ = [
    "AlarmConfig",
    "AnyOf",
    "Audit",
    "AuditPlan",
    "BudgetConfig",
    "BudgetController",
    "BudgetRule",
    "CachedStage",
    "Cascade",
    "Certificate",
    "CertifiedRule",
    "DeferralModel",
    "DriftAlarm",
    "DriftEvent",
    "DriftGuard",
    "DynamicTuner",
    "EntropyRule",
    "Escalate",
    "FunctionStage",
    "GainModel",
    "LearnedDeferral",
    "Missing",
    "PrecisionRule",
    "PricedPlan",
    "ProductionRecall",
    "RegionRule",
    "RegionThreshold",
    "Route",
    "Rule",
    "ScoreMonitor",
    "SequentialAudit",
    "SequentialState",
    "Shift",
    "Simulated",
    "Stage",
    "StageSpec",
    "Stratum",
    "TableRule",
    "TunerConfig",
    "TunerStep",
    "ViewRule",
    "Window",
    "audit_plan",
    "binary_entropy",
    "certify",
    "certify_finite",
    "certify_joint",
    "certify_precision",
    "certify_recall",
    "certify_slices",
    "certify_stream",
    "certify_window",
    "expected_delay",
    "fit_deferral",
    "fit_gain",
    "is_audited",
    "neyman",
    "plan_for_budget",
    "plan_for_price",
    "pooled_recall",
    "read_audit",
    "read_window",
    "region_thresholds",
    "route_batch",
    "thresholds_from_validation",
    "verify_slices",
]
