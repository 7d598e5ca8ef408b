"""An evaluation as plain data, tables, a block for a model's spec, and files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from indexer import plots
from indexer.evaluate import STAGES, Evaluation, Measured
from recognition.evaluation import FARS, Curve, Tar

POINTS = 200
"""Of the ROC in JSON."""
Row = dict[str, str]
Tables = list[tuple[str, list[Row]]]
PHOTOGRAPHS, VERIFICATION, CONFIDENCE = "photographs", "verification", "confidence"
TARS = "pairs of one person accepted, by share of strangers accepted (FAR)"
IDENTIFICATION = "identification"
TEXTS = ("evaluation.json", "evaluation.md", "thresholds.toml")
MS = "median processor time of one thread; decode and detect: an image, align and embed: a face"


def data(found: Evaluation, *, failures: bool) -> dict[str, Any]:
    """For JSON; the names of files without a face only on request."""
    labelled, recipe = found.labelled, found.recipe
    counts = Counter(found.failures.values())
    result: dict[str, Any] = {
        "source": {
            "name": labelled.name,
            "kind": labelled.kind,
            "files": len(labelled.files),
            "skipped": len(labelled.skipped),
            "people": None if labelled.owners is None else len(np.unique(labelled.owners)),
            "pairs": len(labelled.pairs),
            "same": int(labelled.same.sum()),
            "strangers": int((~labelled.same).sum()),
        },
        "recipe": asdict(recipe),
        "folds": asdict(labelled.folds),
        "detection": {
            "found": len(labelled.files) - len(found.failures),
            **{reason: counts.get(reason, 0) for reason in ("no_face", "unreadable", "missing")},
        },
        "milliseconds": {**found.milliseconds, "what": MS},
        "identification": {
            "enrolled": found.enrolled,
            "probes": found.probes,
            "reason": found.no_ranks,
        },
        "metrics": {metric: _metric(one) for metric, one in found.metrics.items()},
        "spec": toml(found),
    }
    if failures:
        skipped = [{"file": s.locator, "reason": s.reason} for s in labelled.skipped]
        result["failures"] = [{"file": f, "reason": r} for f, r in found.failures.items()] + skipped
    return result


def toml(found: Evaluation) -> str:
    """The fitted thresholds as a model's spec has them. `accuracy` is that of the threshold on these very pairs."""
    name = f"{found.labelled.name}, {len(found.labelled.pairs):,} pairs, {found.recipe.detector}"
    if found.recipe.align != "native":
        name += f", align {found.recipe.align}"
    blocks = [
        f"[thresholds.{metric}]\n"
        f"value = {_number(one.fitted.threshold)}\n"
        f"accuracy = {one.accuracy:.4f}\n"
        f"slope = {_number(one.fitted.slope)}\n"
        f"data = {json.dumps(name)}\n"
        for metric, one in found.metrics.items()
    ]
    return "\n".join(blocks)


def tables(result: Mapping[str, Any]) -> Tables:
    """What `data` gave, for people: titles and rows."""
    metrics: Mapping[str, Any] = result["metrics"]
    found = [
        (PHOTOGRAPHS, [_photographs(result)]),
        (VERIFICATION, [_verification(name, one) for name, one in metrics.items()]),
        (TARS, [_tars(name, one) for name, one in metrics.items()]),
        (CONFIDENCE, [_confidence(name, one) for name, one in metrics.items()]),
    ]
    if result["identification"]["reason"] is None:
        found.append(
            (IDENTIFICATION, [_identification(name, one) for name, one in metrics.items()])
        )
    return found


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the numbers rest on, and why some are missing."""
    source, folds, ranks = result["source"], result["folds"], result["identification"]
    lines = [
        f"{source['pairs']:,} pairs, {source['same']:,} of them of one person; number of folds: "
        f"{folds['number']} ({'as in the file' if folds['origin'] == 'file' else 'made here'}).",
        "± is the standard error over the folds; brackets hold 95 % intervals.",
    ]
    if folds["note"]:
        lines.append(f"Folds: {folds['note']}.")
    if folds["number"] < 2:
        lines.append("By folds: - (a threshold for a fold needs another fold to be chosen on).")
    if source["kind"] == "tree":
        lines.append("Accuracy and calibration: pairs of one person and of strangers count half.")
    if ranks["reason"]:
        lines.append(f"Identification: - ({ranks['reason']}).")
    else:
        lines.append(
            f"Identification: {ranks['enrolled']:,} people enrolled with one photograph, "
            f"{ranks['probes']:,} others searched for."
        )
    first = next(iter(result["metrics"].values()))
    lines += [f"FAR {t['far']:g}: - ({t['reason']})." for t in first["tar_at_far"] if t["reason"]]
    if first["own"]:
        lines.append(
            f"The spec's thresholds (and slopes, where it has them) are from: {first['own']['data']}."
        )
    lines.append(f"ms: {result['milliseconds']['what']}.")
    return lines


def markdown(result: Mapping[str, Any]) -> str:
    parts = [f"# {result['source']['name']}: {recipe_of(result)}"]
    for title, rows in tables(result):
        parts.append(f"## {title.capitalize()}\n\n{markdown_table(rows)}")
    parts += ["\n".join(f"- {note}" for note in notes(result))]
    parts.append(f"For a model's spec:\n\n```toml\n{result['spec']}```")
    return "\n\n".join(parts) + "\n"


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows with the same columns."""
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], *(row.values() for row in rows))]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def write(found: Evaluation, result: Mapping[str, Any], folder: Path) -> list[str]:
    """Everything into the folder; the names of the files. Raises NoPlots once all but the plots are written."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = (
        json.dumps(result, ensure_ascii=False, indent=2),
        markdown(result),
        str(result["spec"]),
    )
    for name, text in zip(TEXTS, texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    plots.roc({name: one.curve for name, one in found.metrics.items()}, folder / "roc.png")
    drawn = ["roc.png"]
    for name, one in found.metrics.items():
        lines = {"best threshold": one.fitted.threshold}
        if one.own is not None:
            lines["spec's threshold"] = one.own.threshold
        plots.histogram(name, one.trials, lines, folder / f"distances_{name}.png")
        drawn.append(f"distances_{name}.png")
    return [*TEXTS, *drawn]


def _metric(one: Measured) -> dict[str, Any]:
    return {
        "held_out": None if one.held_out is None else asdict(one.held_out),
        "best": {
            "threshold": one.fitted.threshold,
            "interval": one.interval,
            "slope": one.fitted.slope,
            "accuracy": one.accuracy,
            "wrong": one.wrong,
            "calibration_held_out": None if one.calibration is None else asdict(one.calibration),
        },
        "own": None if one.own is None else asdict(one.own),
        "auc": one.curve.auc(),
        "tar_at_far": [asdict(tar) for tar in one.tars],
        "ranks": None if one.ranks is None else asdict(one.ranks),
        "roc": _points(one.curve),
    }


def _points(curve: Curve) -> dict[str, list[float]]:
    """Not every threshold: those of FARs evenly spread on a logarithmic scale."""
    least = max(float(curve.far[curve.far > 0].min(initial=1.0)), 1e-9)
    wanted = np.concatenate([[0.0], np.geomspace(least, 1.0, POINTS)])
    at = np.unique(np.searchsorted(curve.far, wanted * (1 + 1e-9), "right") - 1)
    return {
        "threshold": curve.thresholds[at].tolist(),
        "far": curve.far[at].tolist(),
        "tar": curve.tar[at].tolist(),
    }


def _photographs(result: Mapping[str, Any]) -> Row:
    source, detection, ms = result["source"], result["detection"], result["milliseconds"]
    files = max(source["files"], 1)
    return {
        "files": f"{source['files']:,}",
        "with a face": f"{detection['found'] / files:.2%}",
        "no face": str(detection["no_face"]),
        "unreadable": str(detection["unreadable"]),
        "missing": str(detection["missing"]),
        "skipped": str(source["skipped"]),
        **{f"ms {stage}": _or_dash(ms[stage], ".1f") for stage in STAGES},
    }


def _verification(name: str, one: Mapping[str, Any]) -> Row:
    folds, best, own = one["held_out"], one["best"], one["own"]
    return {
        "metric": name,
        "accuracy by folds": "-"
        if folds is None
        else f"{folds['mean']:.4f} ± {folds['standard_error']:.4f}",
        "best threshold": _with(best["threshold"], best["interval"], ".4g"),
        "accuracy": f"{best['accuracy']:.4f}",
        "wrong": str(best["wrong"]),
        "spec's threshold": "-" if own is None else f"{own['threshold']:.4g}",
        "its accuracy": "-" if own is None else _with(own["accuracy"], own["interval"], ".4f"),
        "its wrong": "-" if own is None else str(own["wrong"]),
    }


def _tars(name: str, one: Mapping[str, Any]) -> Row:
    cells = {f"FAR {far:g}": "-" for far in FARS}
    for tar in (Tar(**t) for t in one["tar_at_far"]):
        if tar.tar is not None:
            text = _with(tar.tar, tar.interval, ".4f")
            cells[f"FAR {tar.far:g}"] = f"{text} at {tar.threshold:.4g}"
    return {"metric": name, "area under ROC": f"{one['auc']:.5f}", **cells}


def _confidence(name: str, one: Mapping[str, Any]) -> Row:
    """Calibration error and Brier score: of a fit to the other folds, and of what users are shown."""
    fitted = one["best"]["calibration_held_out"] or {}
    own = (one["own"] or {}).get("calibration") or {}
    return {
        "metric": name,
        "slope": f"{one['best']['slope']:.4g}",
        "calibration error by folds": _or_dash(fitted.get("error"), ".4f"),
        "Brier by folds": _or_dash(fitted.get("brier"), ".4f"),
        "spec's slope": _or_dash((one["own"] or {}).get("slope"), ".4g"),
        "its calibration error": _or_dash(own.get("error"), ".4f"),
        "its Brier": _or_dash(own.get("brier"), ".4f"),
    }


def _identification(name: str, one: Mapping[str, Any]) -> Row:
    ranks = one["ranks"]
    return {
        "metric": name,
        "rank 1": _with(ranks["rank_1"], ranks["interval"], ".4f"),
        "rank 5": _or_dash(ranks["rank_5"], ".4f"),
        "threshold": f"{ranks['threshold']:.4g}",
        "identified within it": f"{ranks['identified']:.4f}",
        "strangers taken for somebody": f"{ranks['false_alarms']:.4f}",
    }


def recipe_of(result: Mapping[str, Any]) -> str:
    recipe = result["recipe"]
    return f"{recipe['model']} + {recipe['detector']} (align {recipe['align']})"


def _with(value: float, interval: Sequence[float] | None, form: str) -> str:
    if interval is None:
        return f"{value:{form}}"
    return f"{value:{form}} ({interval[0]:{form}} to {interval[1]:{form}})"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _number(value: float) -> str:
    """Four digits, as TOML takes a float: 4.0 and not 4."""
    return repr(float(f"{value:.4g}"))
