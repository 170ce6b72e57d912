"""Interventions: what can be changed about a system, what each change would do to a run, and how it is carried out.

Enters: a diagnosis. Leaves: for a change without training, the run's new scores, thresholds or labels; for one with
training, the command that starts it. ``REGISTRY`` holds one small object an intervention.
"""

from tidegate.diagnosis.interventions.base import Change, Context, Intervention
from tidegate.diagnosis.interventions.registry import REGISTRY, of_class

__all__ = ["REGISTRY", "Change", "Context", "Intervention", "of_class"]
