"""Results of an experiment, one per arm and seed: as a table and as CSV."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.synthetic.motion import median_motion
from engine.evaluation.consistency import SINGLE_FRAME, SMOOTHED, WITH_MEMORY
from engine.evaluation.metric import shown_metrics
from engine.experiments.plan import MOTION, Plan
from engine.experiments.runner import Chain, data_folder
from engine.reports.scores import MEAN_IOU
from utils.errors import DataError
from utils.json_text import from_json

CONSISTENCY = ("TC", "mVC8", "mVC16")


@dataclass(frozen=True)
class Result:
    """The figures of one evaluation in [0, 1], without those that were not measured."""

    arm: str
    seed: int
    figures: dict[str, float]  # by measure
    iou: dict[str, float | None]  # by class


def read_results(chains: Sequence[Chain]) -> list[Result]:
    """The reports of the chains' evaluations. Raises ``DataError`` for a file that is no report."""
    return [_read(chain) for chain in chains]


def _read(chain: Chain) -> Result:
    try:
        report = from_json(chain.report.read_text(encoding="utf-8"))
        scores, video = report, {}
        if "consistency" in report:
            consistency = report["consistency"]
            # A network without a memory has only figures of the single frame.
            of = WITH_MEMORY if WITH_MEMORY in consistency["tc"] else SINGLE_FRAME
            if consistency.get("smoothing"):  # the clips' own scores are those of the network alone
                of += SMOOTHED
                scores = consistency["scores"][of]
            video = {"TC": consistency["tc"][of], **consistency["mvc"][of]}
        figures = {"mIoU": scores[MEAN_IOU]}
        figures |= {metric.title: value for metric, value in shown_metrics(scores) if metric.name != MEAN_IOU} | video
        figures = {name: value for name, value in figures.items() if value is not None}
        return Result(chain.arm.name, chain.seed, figures, scores["iou"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{chain.report}: no report of an evaluation ({error}); remove its folder and go on") from error


def positions(plan: Plan, results: Sequence[Result], folder: Path) -> dict[str, float]:
    """Positions on the plan's axis of the arms with results, by name; ``folder`` is the experiment's."""
    with_results = {result.arm for result in results}
    places: dict[str, float] = {}
    motion: dict[str, float] = {}  # by data
    for arm in plan.arms:
        if arm.at is None or arm.name not in with_results:
            continue
        if not isinstance(arm.at, str):
            places[arm.name] = arm.at
            continue
        assert arm.at == MOTION and arm.data is not None  # read_plan has checked it
        if arm.data not in motion:
            motion[arm.data] = round(
                median_motion(data_folder(folder, arm.data)), 3
            )  # further digits are rounding errors
        places[arm.name] = motion[arm.data]
    return places


def gains(plan: Plan, results: Sequence[Result], arm: str, measure: str) -> dict[int, float]:
    """Difference of an arm to its reference, by the seeds of both; empty for an arm without a reference."""
    reference = plan.reference_of(arm)
    if reference is None or reference == arm:
        return {}
    return gains_over(results, arm, reference, measure)


def best_control(plan: Plan, results: Sequence[Result], arm: str, measure: str) -> str | None:
    """Of an arm's reference and the simple controls of that, the one with the highest mean; ``None`` for an arm without
    a reference, and where no simple control was run."""
    means = {name: values_of(results, name, measure).values() for name in plan.controls_of(arm)}
    found = {name: statistics.fmean(values) for name, values in means.items() if values}
    return max(found, key=lambda name: found[name]) if len(found) > 1 else None


def gains_over(results: Sequence[Result], arm: str, reference: str, measure: str) -> dict[int, float]:
    """Difference of an arm to another one, by the seeds of both."""
    mine, theirs = (values_of(results, name, measure) for name in (arm, reference))
    if len(theirs) == 1:  # of a reference that does not depend on the seed
        theirs = dict.fromkeys(mine, next(iter(theirs.values())))
    return {seed: value - theirs[seed] for seed, value in mine.items() if seed in theirs}


def values_of(results: Sequence[Result], arm: str, measure: str) -> dict[int, float]:
    """Values of a measure of an arm, in [0, 1], by seed."""
    return {r.seed: r.figures[measure] for r in results if r.arm == arm and measure in r.figures}


def markdown(plan: Plan, results: Sequence[Result], circumstances: str, at: Mapping[str, float]) -> str:
    """Tables of all measures of all arms with their gains, and of the IoU per class; ``at`` are the ``positions``."""
    arms = [arm.name for arm in plan.arms if any(r.arm == arm.name for r in results)]
    found = dict.fromkeys(measure for result in results for measure in result.figures)
    measures = [measure for measure in found if measure not in CONSISTENCY]
    measures += [measure for measure in CONSISTENCY if measure in found]
    missing = [arm.name for arm in plan.arms for seed in plan.seeds_of(arm)
               if not any(r.arm == arm.name and r.seed == seed for r in results)]  # fmt: skip
    lines = [f"# {plan.question}", "", circumstances, ""]
    if missing:
        lines += [f"**Not yet run:** {', '.join(dict.fromkeys(missing))}.", ""]
    head = [*([plan.axis or ""] if at else []), "seeds", *(f"{measure} %" for measure in measures)]
    best = {arm: best_control(plan, results, arm, "mIoU") for arm in arms}
    over_best = ["over the best control", "in each seed"] if any(best.values()) else []
    lines += _row(["", *head, "gain in mIoU", "in each seed", *over_best], rule=True)
    for arm in arms:
        cells = [mean_and_deviation(values_of(results, arm, measure).values()) for measure in measures]
        over, per_seed = _gain_cells(results, arm, plan.reference_of(arm))
        place = [f"{at[arm]:g}" if arm in at else "–"] if at else []
        beyond = _gain_cells(results, arm, best[arm]) if over_best else []
        lines += _row([arm, *place, str(len(values_of(results, arm, "mIoU"))), *cells, over, per_seed, *beyond])
    lines += ["", "Means over the seeds ± their standard deviation. IoU per class, means over the seeds, in %:", ""]
    lines += _row(["", *arms], rule=True)
    for name in results[0].iou if results else ():
        of_arm = [[iou for r in results if r.arm == arm and (iou := r.iou[name]) is not None] for arm in arms]
        lines += _row([name, *(f"{100 * statistics.fmean(each):.1f}" if each else "–" for each in of_arm)])
    return "\n".join(lines) + "\n"


def _gain_cells(results: Sequence[Result], arm: str, reference: str | None) -> list[str]:
    """The gain of an arm in mIoU over another one, and that in each seed; empty cells where there is none."""
    gained = {} if reference in (None, arm) else gains_over(results, arm, str(reference), "mIoU")
    if not gained:
        return ["", ""]
    mean = mean_and_deviation(gained.values(), signed=True)
    return [f"{mean} over {reference}", ", ".join(f"{100 * gain:+.2f}" for gain in gained.values())]


def mean_and_deviation(values: Iterable[float], signed: bool = False) -> str:
    """Mean in percent, with the sample standard deviation where there is more than one value."""
    values = [100 * value for value in values if not math.isnan(value)]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def csv_text(results: Sequence[Result]) -> str:
    """Rows of arm, seed, measure and value in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "seed", "measure", "value"])
    for r in results:
        rows = [*r.figures.items(), *((f"IoU {name}", value) for name, value in r.iou.items() if value is not None)]
        writer.writerows([r.arm, r.seed, measure, f"{value:.6f}"] for measure, value in rows)
    return text.getvalue()


def _row(cells: Sequence[str], rule: bool = False) -> list[str]:
    row = f"| {' | '.join(cells)} |"
    return [row, "|" + "---|" * len(cells)] if rule else [row]


def results_files(folder: Path) -> tuple[Path, Path, Path]:
    """Paths of the table, the CSV and the figure of an experiment."""
    return folder / "table.md", folder / "results.csv", folder / "figure.png"
