"""Worlds with planted faults: how diagnosis is judged.

Enters: a seed and a fault. Leaves: a system that was really trained on observations of synthetic items, with the fault
in its data, model, pipeline or policy; a ``ProbeTable`` and a ``Scorer`` of it, which is all that diagnosis may see;
and the gain of every intervention of the taxonomy, really carried out. Injectors that a classifier may be fitted on
are in ``fitting``, ``further``, ``varied_...`` and ``independent``, those kept for the score in ``held_out``; none of
the former imports the latter, nor the other way round.
"""
