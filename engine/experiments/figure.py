"""The figure of an experiment: the mIoU of every arm, a dot for each seed and a line for their mean."""

import io
import statistics
import textwrap
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from engine.experiments.plan import Plan
from engine.experiments.results import Result, gains, values_of
from engine.plots import BLUE, GREY, INK, LOOKS, VERMILION


def figure_png(plan: Plan, results: Sequence[Result]) -> bytes:
    """mIoU of the arms from top to bottom, with the mean gain over the reference beside."""
    arms = [arm.name for arm in plan.arms if values_of(results, arm.name, "mIoU")]
    references = {plan.arm(arm).reference for arm in arms}
    with matplotlib.rc_context({**LOOKS, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(9, 1.1 + 0.42 * len(arms)), layout="constrained")
        axes = figure.subplots()
        for row, arm in enumerate(arms):
            values = [100 * value for value in values_of(results, arm, "mIoU").values()]
            colour = GREY if arm in references else BLUE
            axes.plot(values, [row] * len(values), "o", color=colour, markersize=6, alpha=0.8)
            mean = statistics.fmean(values)
            axes.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, linewidth=2.5)
            gained = gains(plan, results, arm, "mIoU")
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
        axes.set_yticks(range(len(arms)), arms)
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.set_xlabel("mIoU % (dots: seeds, bars: means; right: mean gain over the reference, grey)")
        axes.set_title(textwrap.fill(plan.question, 60))
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
