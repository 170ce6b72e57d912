"""The report room: outcomes and stored evidence in, one self-contained HTML page out.

It shows what is stored and computes nothing but counts. Public names: :func:`write_report`.
"""

from __future__ import annotations

from tidegate.report.page import write_report

__all__ = ["write_report"]
