"""The plan of an experiment, read from a TOML file.

    question = "Does the memory pay?"          # the title
    seeds = [1, 2, 3]
    options = "--dataset Synthetic"            # of every command
    reference = "control"                      # gains are relative to this arm, by seed
    simple_controls = true                     # references also averaged over time: still, and along the flow
    axis = "side of the window"                # the figure shows gains against it, at each arm's ``at``

    [data]                                     # data sets, by name: a module that writes them, and its options
    street = "datasets.synthetic --train-clips 400 --size 128x256"

    [arms.lmanet]
    data = "street"
    start = "trained_models/erfnet_street.pth" # initial weights: a file, or those of another arm that are scored
    train = "--lr-start 1e-3 --num-epochs 4"   # absent: the initial weights are evaluated
    evaluate = "--consistency"                 # options of the evaluation
    network = "--corr-size 5"                  # options of both
    score = "best"                             # the epoch that is best on what --hold-out takes; absent: the last one
    at = "5"                                   # on the axis; motion: median motion of its clips, in pixels per frame
    line = "T = 3"                             # arms with the same text are connected by a line

An arm with ``each = [...]`` is one arm per value, which replaces ``{}`` in its name and its strings. An arm may have a
``reference`` of its own.
"""

import math
import shlex
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from engine.options.settings import AUTO
from utils.errors import OptionError

PLANS = Path(__file__).parent / "plans"
_PLAN_KEYS = {"question", "seeds", "options", "reference", "simple_controls", "axis", "data", "arms"}
# The simple controls: what costs no training. Their weight is chosen on training clips.
_SMOOTHED = {"average": "averaged", "flow": "averaged along the flow"}
_DATA_MODULES = ("datasets.synthetic", "engine.pseudo_labels")
_ARM_KEYS = {"data", "start", "train", "evaluate", "network", "score", "reference", "at", "line", "each"}
MOTION = "motion"


@dataclass(frozen=True)
class Arm:
    """One network, or one way to train or evaluate it; options are lists of words."""

    name: str
    data: str | None
    start: str
    train: tuple[str, ...] | None
    evaluate: tuple[str, ...]
    network: tuple[str, ...]
    reference: str | None
    at: float | str | None  # a number or MOTION
    line: str
    scores_best: bool = False  # of its epochs; else the last one is scored
    smooths: str | None = None  # the arm whose predictions this one, a simple control, smooths

    @property
    def folder(self) -> str:
        """Name of the arm's folder."""
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in self.name)


@dataclass(frozen=True)
class Plan:
    """An experiment; arms are ordered after those that they start from."""

    name: str
    question: str
    seeds: tuple[int, ...]
    options: tuple[str, ...]
    axis: str | None
    data: dict[str, tuple[str, ...]]
    arms: tuple[Arm, ...]

    def arm(self, name: str) -> Arm | None:
        """The arm of that name; ``None`` where there is none."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def reference_of(self, name: str) -> str | None:
        """Name of the arm that the gains of an arm are relative to; ``None`` where it has none."""
        arm = self.arm(name)
        return None if arm is None else arm.reference

    def controls_of(self, name: str) -> list[str]:
        """Names of the arms to compare an arm with: its reference, and the simple controls of that; or none."""
        reference = self.reference_of(name)
        if reference in (None, name):
            return []
        return [str(reference), *(arm.name for arm in self.arms if arm.smooths == reference)]

    def depends_on_seed(self, arm: Arm) -> bool:
        """Whether the result depends on the seed: where the arm, or one that it starts from, is trained."""
        start = self.arm(arm.start)
        return arm.train is not None or (start is not None and self.depends_on_seed(start))

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """The seeds to run an arm with: the first one where the result does not depend on it."""
        return self.seeds if self.depends_on_seed(arm) else self.seeds[:1]


def names() -> list[str]:
    """Names of the shipped plans."""
    return sorted(path.stem for path in PLANS.glob("*.toml"))


def read_plan(name_or_file: str) -> Plan:
    """A shipped plan by name, or the plan of a TOML file. Raises ``OptionError`` for an invalid plan."""
    path = Path(name_or_file) if name_or_file.endswith(".toml") else PLANS / f"{name_or_file}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OptionError(
            f"{name_or_file}: there is no such experiment: expected one of {', '.join(names())}, or a .toml file"
        ) from None
    except (OSError, ValueError) as error:
        raise OptionError(f"{path}: cannot be read as TOML ({error}); see engine/experiments/plan.py") from error
    try:
        return _plan(path, content)
    except (TypeError, AttributeError, KeyError) as error:
        raise OptionError(f"{path}: {error} is missing or of another type; see engine/experiments/plan.py") from error


def _plan(path: Path, content: dict) -> Plan:
    _refuse_unknown(path, "the file", content, _PLAN_KEYS)
    arms = []
    for name, entry in content["arms"].items():
        _refuse_unknown(path, f"arm {name}", entry, _ARM_KEYS)
        arms += [_arm(name, entry, content.get("reference"), str(value)) for value in entry.get("each", [""])]
    if content.get("simple_controls", False):
        arms = _with_simple_controls(arms)
    plan = Plan(
        name=path.stem,
        question=content["question"],
        seeds=tuple(int(seed) for seed in content["seeds"]),
        options=_words(content.get("options", "")),
        axis=content.get("axis"),
        data={name: _words(options) for name, options in content.get("data", {}).items()},
        arms=tuple(arms),
    )
    _check(path, plan)
    return plan


def _with_simple_controls(arms: list[Arm]) -> list[Arm]:
    """The arms, each reference followed by its simple controls; without those of changed clips, which are no video."""
    references = {arm.reference for arm in arms if arm.reference != arm.name}
    found = []
    for arm in arms:
        found.append(arm)
        if arm.name in references and "--control" not in (*arm.network, *arm.evaluate):
            found += [_smoothed(arm, kind) for kind in _SMOOTHED]
    return found


def _smoothed(arm: Arm, kind: str) -> Arm:
    evaluate = *(word for word in arm.evaluate if word != "--consistency"), "--consistency"
    return replace(
        arm,
        name=f"{arm.name}, {_SMOOTHED[kind]}",
        start=arm.start if arm.train is None else arm.name,
        train=None,
        scores_best=False,
        evaluate=(*evaluate, "--smooth", kind, "--smooth-weight", AUTO),
        reference=None,
        at=None,
        smooths=arm.name,
    )


def _arm(name: str, entry: dict, reference: str | None, value: str) -> Arm:
    def filled(key: str, default: str = "") -> str:
        return entry.get(key, default).replace("{}", value)

    def optional(key: str, default: str | None = None) -> str | None:
        return None if entry.get(key, default) is None else filled(key, default or "")

    train, at = optional("train"), entry.get("at")
    return Arm(
        name=name.replace("{}", value),
        data=optional("data"),
        start=filled("start", "none"),
        train=None if train is None else _words(train),
        evaluate=_words(filled("evaluate")),
        network=_words(filled("network")),
        reference=optional("reference", reference),
        at=None if at is None else _at(name, str(at).replace("{}", value)),
        line=filled("line"),
        scores_best=_scores_best(name, entry.get("score", "last"), filled("train")),
    )


def _scores_best(name: str, score: str, train: str) -> bool:
    if score not in ("last", "best"):
        raise OptionError(f"arm {name} has score {score}: expected best or last, as which of its epochs is scored")
    if score == "best" and "--hold-out" not in train:
        raise OptionError(
            f"arm {name} scores its best epoch, which would be chosen on the clips of the evaluation: expected "
            "--hold-out in its train, such as --hold-out 0.1"
        )
    return score == "best"


def _at(name: str, text: str) -> float | str:
    try:
        if text == MOTION or math.isfinite(float(text)):
            return text if text == MOTION else float(text)
    except ValueError:
        pass
    raise OptionError(f"arm {name} is at {text}: expected a number or {MOTION}, for example 5")


def _words(options: str) -> tuple[str, ...]:
    return tuple(shlex.split(options))


def _refuse_unknown(path: Path, where: str, entry: dict, known: set[str]) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        raise OptionError(f"{path}: {where} has {', '.join(unknown)}: expected {', '.join(sorted(known))}")


def _check(path: Path, plan: Plan) -> None:
    seen: set[str] = set()
    folders = [arm.folder for arm in plan.arms]
    if not plan.seeds or not plan.arms or len(set(folders)) < len(folders):
        raise OptionError(f"{path}: expected one seed and one arm or more, and arms whose names differ")
    for name, words in plan.data.items():
        if not words or words[0] not in _DATA_MODULES:
            raise OptionError(f"{path}: data {name} begins with {words[:1]}: expected {' or '.join(_DATA_MODULES)}")
    for arm in plan.arms:
        if arm.data is not None and arm.data not in plan.data:
            raise OptionError(f"{path}: arm {arm.name} has data {arm.data}: expected one of {', '.join(plan.data)}")
        if arm.at is not None and arm.reference in (None, arm.name):
            raise OptionError(f"{path}: arm {arm.name} is at {arm.at}, where gains are shown: expected a reference")
        if arm.at is not None and plan.axis is None:
            raise OptionError(f'{path}: arm {arm.name} is at {arm.at}: expected an axis, such as axis = "frames"')
        if arm.at == MOTION and (arm.data is None or plan.data[arm.data][0] != "datasets.synthetic"):
            raise OptionError(
                f"{path}: arm {arm.name} is at {MOTION}: expected data of datasets.synthetic, or a number"
            )
        if arm.reference is not None and plan.arm(arm.reference) is None:
            raise OptionError(f"{path}: arm {arm.name} has reference {arm.reference}: there is no such arm")
        if plan.arm(arm.start) is not None and arm.start not in seen:
            raise OptionError(f"{path}: arm {arm.name} starts from {arm.start}: expected an arm that comes before it")
        seen.add(arm.name)
