"""Planted faults on clips: the benchmark of diagnosis on rendered and on real videos.

Enters: a manifest or a folder of clips, and what scores them. Leaves: the same table as in the world of features. How
faults come about (``damage``, ``treatment``, ``mechanisms``) knows nothing of how answers are scored (``runs``).
"""

from tidegate.bench.diagnosis_clips.benchmark import ClipBenchConfig, run_clip_benchmark, run_fight_benchmark

__all__ = ["ClipBenchConfig", "run_clip_benchmark", "run_fight_benchmark"]
