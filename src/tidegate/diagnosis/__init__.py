"""Diagnosis: why does a model fail, and what will cure it?

Enters: an evaluated run (labels, scores, and a scorer that can score the same items with one thing changed). Leaves:
how many errors each class of failure explains, with intervals, and interventions ranked by expected gain per cost. The
method follows arXiv 2606.30059 (failures, observable signatures, interventions, attribution); its class list is not
public, so the list in ``taxonomy`` is Tidegate's own.
"""

from tidegate.diagnosis.diagnose import Diagnosis, DiagnosisConfig, diagnose
from tidegate.diagnosis.table import ProbeTable, Scorer
from tidegate.diagnosis.taxonomy import PROBES, TAXONOMY, FailureClass

__all__ = ["PROBES", "TAXONOMY", "Diagnosis", "DiagnosisConfig", "FailureClass", "ProbeTable", "Scorer", "diagnose"]
