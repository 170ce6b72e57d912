"""The paper's six tables, and what it leaves open, run again with the ``tiny`` preset on a labelled manifest.

Enters: a manifest, a foundation (warmed-up models that have seen none of its videos). Leaves: the paper's rows beside
ours, in the same columns, and for each pair of rows whether the ordering agrees. Source of the paper's figures: arXiv
2412.10435, tables 1 to 6.
"""

from tidegate.bench.reproduce.paper import TABLES, PaperRow

__all__ = ["TABLES", "PaperRow"]
