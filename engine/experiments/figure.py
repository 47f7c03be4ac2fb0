"""The figure of an experiment: the mIoU of every arm, or the gains along the plan's axis."""

import io
import statistics
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.experiments.plan import Plan
from engine.experiments.results import Result, best_control, gains, gains_over, values_of
from engine.reports.plots import BLUE, GRAY, GREEN, INK, LOOKS, VERMILION

NAME_WIDTH = 44  # characters of an arm's name in a line
LINES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (INK, ":"))


def figure_png(plan: Plan, results: Sequence[Result], at: Mapping[str, float]) -> bytes:
    """The figure as PNG: a dot per seed, and means; ``at`` are positions of arms on the axis, if the plan has one."""
    with matplotlib.rc_context(matplotlib.RcParams({**LOOKS, "axes.grid.axis": "y" if at else "x"})):
        if at:
            figure = Figure(figsize=(7.5, 4), layout="constrained")
            axes = figure.subplots()
            _gains_along(axes, plan, results, at)
        else:
            arms = [arm.name for arm in plan.arms if values_of(results, arm.name, "mIoU")]
            figure = Figure(figsize=(9, 1.3 + 0.45 * len(arms)), layout="constrained")
            axes = figure.subplots()
            _arms_below_each_other(axes, plan, results, arms)
        figure.suptitle(textwrap.fill(plan.question, 80))
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _gains_along(axes: Axes, plan: Plan, results: Sequence[Result], at: Mapping[str, float]) -> None:
    """Draws gains over the best controls along the axis; a line per ``Arm.line``."""
    names = list(dict.fromkeys(arm.line for arm in plan.arms if arm.name in at))
    for index, name in enumerate(names):
        color, dashes = LINES[index % len(LINES)]
        points: dict[float, list[float]] = {}
        for arm in plan.arms:
            gained = _gains_over_best(plan, results, arm.name)
            if arm.line == name and arm.name in at and gained:
                points.setdefault(at[arm.name], []).extend(100 * gain for gain in gained.values())
        xs = sorted(points)
        axes.plot([x for x in xs for _ in points[x]], [gain for x in xs for gain in points[x]], "o", color=color)
        axes.plot(xs, [statistics.fmean(points[x]) for x in xs], dashes, color=color, linewidth=2, label=name)
    axes.axhline(0, color=GRAY, linewidth=1.5)
    axes.set_xlabel(plan.axis or "")
    axes.set_ylabel("gain in mIoU over the best control, points")
    if names != [""]:
        axes.legend()


def _gains_over_best(plan: Plan, results: Sequence[Result], arm: str) -> dict[int, float]:
    """Gains in mIoU by seed, over the reference where that has no simple controls."""
    control = best_control(plan, results, arm, "mIoU")
    return gains_over(results, arm, control, "mIoU") if control else gains(plan, results, arm, "mIoU")


def _arms_below_each_other(axes: Axes, plan: Plan, results: Sequence[Result], arms: Sequence[str]) -> None:
    """Draws the mIoU of arms from top to bottom, and beside it the mean gain over the best control."""
    references = {plan.reference_of(arm) for arm in arms}
    for row, arm in enumerate(arms):
        values = [100 * value for value in values_of(results, arm, "mIoU").values()]
        color = GRAY if arm in references else BLUE
        axes.plot(values, [row] * len(values), "o", color=color, markersize=6, alpha=0.8)
        mean = statistics.fmean(values)
        axes.plot([mean, mean], [row - 0.3, row + 0.3], color=color, linewidth=2.5)
        gained = _gains_over_best(plan, results, arm)
        if gained:
            gain = 100 * statistics.fmean(gained.values())
            axes.annotate(
                f"{gain:+.2f}",
                (1.01, row),
                xycoords=("axes fraction", "data"),
                va="center",
                color=INK if gain >= 0 else VERMILION,
                annotation_clip=False,
            )
    axes.set_yticks(range(len(arms)), [textwrap.fill(arm, NAME_WIDTH) for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_xlabel("mIoU % (dots: seeds, bars: means)\nright: mean gain over the best control; gray: the reference")
