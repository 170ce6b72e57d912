"""Metrics over arrays and ids: what enters are labels, scores and groups; what leaves are numbers with their
intervals.
"""

from tidegate.evaluation.calibration import (
    Reliability,
    brier_score,
    calibration_error,
    debiased_calibration_error,
    log_score,
    reliability,
)
from tidegate.evaluation.intervals import Interval, bootstrap_interval, clopper_pearson, paired_bootstrap, wilson
from tidegate.evaluation.platform import (
    cost_per_thousand,
    overturn_rate,
    qps_ratio,
    view_weighted_recall,
    views_before_action,
    violating_view_rate,
)
from tidegate.evaluation.prevalence import (
    recall_at_transported_precision,
    required_false_positive_rate,
    transported_precision,
)
from tidegate.evaluation.ranking import (
    Confusion,
    PrecisionRecallCurve,
    RecallAtPrecision,
    average_precision,
    best_f1,
    confusion_at,
    f1,
    f1_score,
    precision_recall_curve,
    recall_at_precision,
    roc_auc,
    threshold_at_precision,
)
from tidegate.evaluation.slices import Slice, slice_metric
from tidegate.evaluation.tables import Summary, markdown_table, summarise, summary_table

__all__ = [
    "Confusion",
    "Interval",
    "PrecisionRecallCurve",
    "RecallAtPrecision",
    "Reliability",
    "Slice",
    "Summary",
    "average_precision",
    "best_f1",
    "bootstrap_interval",
    "brier_score",
    "calibration_error",
    "clopper_pearson",
    "confusion_at",
    "cost_per_thousand",
    "debiased_calibration_error",
    "f1",
    "f1_score",
    "log_score",
    "markdown_table",
    "overturn_rate",
    "paired_bootstrap",
    "precision_recall_curve",
    "qps_ratio",
    "recall_at_precision",
    "recall_at_transported_precision",
    "reliability",
    "required_false_positive_rate",
    "roc_auc",
    "slice_metric",
    "summarise",
    "summary_table",
    "threshold_at_precision",
    "transported_precision",
    "view_weighted_recall",
    "views_before_action",
    "violating_view_rate",
    "wilson",
]
