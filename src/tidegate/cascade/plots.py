"""Recall-cost curve and reliability diagram → PNG, SVG or a self-contained HTML page. Needs matplotlib."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.cascade.calibrate import Calibrated
from tidegate.errors import DependencyMissing, UsageError
from tidegate.evaluation import Reliability

__all__ = ["plot_calibrated", "plot_reliability"]


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise DependencyMissing("plots need matplotlib: pip install 'tidegate[bench]'") from missing
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path, title: str, note: str) -> None:
    kind = path.suffix.lower().removeprefix(".")
    if kind not in {"png", "svg", "html"}:
        raise UsageError(f"{path}: expected a name that ends in .png, .svg or .html")
    if kind != "html":
        figure.savefig(path, dpi=150)
        return
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    data = base64.b64encode(image.getvalue()).decode()
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(note)}</p>"
        f"<img alt='{html.escape(title)}' src='data:image/png;base64,{data}'></html>"
    )
    path.write_text(page, encoding="utf-8")


def plot_calibrated(calibrated: Calibrated, path: Path) -> None:
    """Share escalated against recall, with the operating point."""
    figure, axes = _figure()
    curve, mine = calibrated.curve, calibrated.certificate
    recalls = [point.recall for point in curve]
    axes.plot(recalls, [point.estimated_share for point in curve], "--", color="0.5", label="estimate (no promise)")
    axes.plot(recalls, [point.certified_share for point in curve], "-o", ms=4, label=f"certified, δ = {mine.delta:g}")
    if mine.target_recall is not None:
        label = "operating point" if mine.certified else "not certified: everything is escalated"
        axes.plot([mine.target_recall], [mine.share_escalated], "*", ms=14, color="tab:red", label=label)
    axes.set(xlabel="recall of what the large model finds alone", ylabel="share escalated", ylim=(0, 1.02))
    axes.legend(frameon=False)
    axes.set_title(mine.target)
    _save(figure, path, f"Certificate {mine.certificate_id}", mine.reason)


def plot_reliability(diagrams: dict[str, Reliability], path: Path) -> None:
    """Rate of positives against probability; a calibrated model lies on the diagonal."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], ":", color="0.5")
    for name, diagram in diagrams.items():
        sizes = 10 + 90 * np.sqrt(diagram.weight)
        axes.plot(diagram.mean_probability, diagram.positive_rate, lw=1)
        axes.scatter(diagram.mean_probability, diagram.positive_rate, s=sizes, label=name)
    axes.set(xlabel="probability", ylabel="rate of positives", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    _save(figure, path, "Reliability", "Size of a point: items in its bin.")
