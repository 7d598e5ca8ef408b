"""Plots of an evaluation as PNG files; needs the extra `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import IndexerError
from recognition.evaluation import Curve, Trials

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (6.4, 4.8)
DPI = 120
BARS = 60


class NoPlots(IndexerError):
    """The library that draws is not installed."""


def roc(curves: Mapping[str, Curve], path: Path) -> None:
    """TAR over FAR, the latter logarithmic from the smallest that the pairs can show. Raises NoPlots."""
    figure = _figure()
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.step(curve.far, curve.tar, where="post", label=f"{name} (area {curve.auc():.4f})")
    least = min(curve.far[curve.far > 0].min(initial=1.0) for curve in curves.values())
    axes.set_xscale("log")
    axes.set_xlim(least / 2, 1.0)
    axes.set_xlabel("FAR: strangers accepted")
    axes.set_ylabel("TAR: pairs of one person accepted")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    _save(figure, path)


def histogram(name: str, trials: Trials, thresholds: Mapping[str, float], path: Path) -> None:
    """Distances of one person's pairs and of strangers', each with the area 1. Raises NoPlots."""
    figure = _figure()
    axes = figure.add_subplot()
    known = trials.only(trials.found)
    bars = np.linspace(0.0, float(known.distances.max(initial=1e-9)), BARS + 1)
    for label, chosen in (("one person", known.same), ("strangers", ~known.same)):
        if chosen.any():
            axes.hist(known.distances[chosen], bars.tolist(), density=True, alpha=0.6, label=label)
    for number, (label, value) in enumerate(thresholds.items()):
        style = ("-", "--")[number % 2]
        axes.axvline(value, color="black", linestyle=style, label=f"{label} {value:.4g}")
    axes.set_xlabel(f"{name} distance")
    axes.set_ylabel("density")
    axes.legend()
    _save(figure, path)


def _figure() -> Figure:
    """Not by way of pyplot, which keeps state and may want a display."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError as error:
        raise NoPlots(
            "no plots, as matplotlib is not installed: pip install 'facesearch[evaluate]'"
        ) from error
    return Figure(figsize=SIZE, dpi=DPI, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png")
