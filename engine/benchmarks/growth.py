"""What ``--benchmark scaling`` has measured, as a table, CSV and plot, and what grows faster than its operations."""

import io
from collections.abc import Iterator
from typing import Any

import torch

from engine.benchmarks.stream import STAGES
from engine.benchmarks.tables import comma_separated, markdown_table
from engine.version import machine_caption
from utils.sizes import format_size

REPORT = "benchmark_scaling"
WHOLE = "whole"
# The time of an operation may be so many times the least along an axis; stages with a smaller share are not judged.
TOLERATED, LEAST_SHARE = 1.15, 0.03
COLUMNS = {
    "axis": "axis",
    "value": "value",
    "gflop": "GFLOP",
    "median": "ms, median",
    "quartiles": "quartiles",
    "cost": "time an operation, of the base's",
    "mebibytes": "MiB",
    **{stage: f"{stage}, ms" for stage in STAGES},
}


def scaling_text(report: dict[str, Any], device: torch.device) -> str:
    """The table in Markdown, what grows faster than its operations, and the machine."""
    base = report["base"]
    sizes = f"T = {base['frames']}, n = {base['window']}, {format_size((base['height'], base['width']))}"
    about = f"`{report['backbone']}`, base point {sizes}, batch {base['batch']}, {base['threads']} threads"
    lines = [markdown_table(COLUMNS, table_rows(report), texts=2), "", *(f"- {line}" for line in findings(report)), ""]
    return "\n".join([*lines, f"{about}. {machine_caption(device, base['threads'])}", ""])


def table_rows(report: dict[str, Any]) -> list[dict[str, object]]:
    """A row for each point of each axis."""
    rows: list[dict[str, object]] = []
    for axis, points in report["axes"].items():
        for label, point in points.items():
            times = point["milliseconds"]
            of_base = cost(point, WHOLE) / base_cost(points, report["base"])
            quartiles = f"{times[WHOLE]['quartile_1']:.1f} to {times[WHOLE]['quartile_3']:.1f}"
            rows.append(
                {
                    "axis": axis,
                    "value": label,
                    "gflop": f"{point['operations'][WHOLE] / 1e9:.1f}",
                    "median": f"{times[WHOLE]['median']:.1f}",
                    "quartiles": quartiles,
                    "cost": f"{of_base:.2f}",
                    "mebibytes": point["mebibytes"],
                    **{stage: f"{times[stage]['median']:.1f}" for stage in STAGES if stage in times},
                }
            )
    return rows


def scaling_csv(report: dict[str, Any]) -> str:
    """The same rows as CSV."""
    return comma_separated(COLUMNS, table_rows(report))


def cost(point: dict[str, Any], stage: str) -> float:
    """Milliseconds of a thread for 10^9 operations of a stage, at the median."""
    return point["milliseconds"][stage]["median"] * point["threads"] / (point["operations"][stage] / 1e9)


def base_cost(points: dict[str, dict[str, Any]], base: dict[str, int]) -> float:
    """The cost of the whole step at the base point; at the first point where an axis leaves the base out."""
    at_base = [point for point in points.values() if all(point[name] == value for name, value in base.items())]
    return cost(at_base[0] if at_base else next(iter(points.values())), WHOLE)


def findings(report: dict[str, Any]) -> list[str]:
    """A line for each stage whose time of an operation grows along an axis, and for the threads' speedup."""
    lines = [line for axis, points in report["axes"].items() for line in _growing(axis, points)]
    if not lines:
        lines = [f"Nothing grows faster than its operations by more than {100 * (TOLERATED - 1):.0f} %."]
    points = report["axes"].get("threads", {})
    if points:
        first, *_, last = points.values()
        speedups = {stage: _median(first, stage) / _median(last, stage) for stage in (WHOLE, *_judged(last))}
        text = ", ".join(f"{stage} {speedup:.2f}" for stage, speedup in speedups.items())
        lines.append(f"{last['threads']} threads are so many times as fast as {first['threads']}: {text}.")
    return lines


def _growing(axis: str, points: dict[str, dict[str, Any]]) -> Iterator[str]:
    labels, last = list(points), list(points.values())[-1]
    for stage in (WHOLE, *_judged(last)):
        least = min(labels, key=lambda label: cost(points[label], stage))
        ratio = cost(last, stage) / cost(points[least], stage)
        if ratio > TOLERATED:
            yield f"{stage} along {axis}: an operation takes {ratio:.2f} times as long at {labels[-1]} as at {least}."


def _judged(point: dict[str, Any]) -> list[str]:
    """The stages with a share of the time that matters."""
    measured = [stage for stage in STAGES if stage in point["milliseconds"] and stage in point["operations"]]
    return [stage for stage in measured if _median(point, stage) >= LEAST_SHARE * _median(point, WHOLE)]


def _median(point: dict[str, Any], stage: str) -> float:
    return point["milliseconds"][stage]["median"]


def plot(report: dict[str, Any]) -> bytes:
    """A PNG: for each axis, milliseconds against operations with the line in proportion to them, and MiB."""
    import matplotlib
    from matplotlib.figure import Figure

    from engine.reports.plots import BLUE, GRAY, GREEN, LOOKS

    axes = report["axes"]
    with matplotlib.rc_context(LOOKS):
        figure = Figure(figsize=(3.4 * len(axes), 5.6), layout="constrained")
        panels = figure.subplots(2, len(axes), squeeze=False)
        for (axis, points), above, below in zip(axes.items(), *panels, strict=True):
            work = [point["operations"][WHOLE] / 1e9 / point["threads"] for point in points.values()]
            times = [point["milliseconds"][WHOLE] for point in points.values()]
            medians = [each["median"] for each in times]
            spread = [[each["median"] - each["quartile_1"] for each in times]]
            spread.append([each["quartile_3"] - each["median"] for each in times])
            rate = base_cost(points, report["base"])
            above.plot([0, max(work)], [0, rate * max(work)], "--", color=GRAY, label="in proportion")
            above.errorbar(work, medians, spread, fmt="o-", color=BLUE, capsize=3, label="measured")
            above.set(title=axis, xlim=(0, None), ylim=(0, None))
            for x, y, label in zip(work, medians, points, strict=True):
                above.annotate(label, (x, y), (4, -10), textcoords="offset points", fontsize=8)
            memory = [float("nan") if point["mebibytes"] is None else point["mebibytes"] for point in points.values()]
            below.plot(work, memory, "o-", color=GREEN)
            below.set(xlabel="GFLOP a thread", xlim=(0, None), ylim=(0, None))
        panels[0][0].set_ylabel("ms a frame")
        panels[0][0].legend()
        panels[1][0].set_ylabel("MiB")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
