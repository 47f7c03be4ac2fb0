"""Runs the commands of an experiment, several side by side, and goes on where it was stopped.

Every command is one of ``main.py`` or of what writes data, in a process of its own with a fixed number of threads,
and is written down. A step that is done leaves its command in a file beside what it made; it is not done again. What
an experiment beside this one has made in the same way - all have a control, and most the same data - is copied.
"""

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from datasets.cityscapes import CITYSCAPES_VARIABLE
from engine.experiments.plan import Arm, Plan
from engine.options import build_parser
from utils.errors import IncompleteError, OptionError
from utils.files import PART, write_text

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[2]
DONE, LOG, RECIPE = "done.txt", "log.txt", "recipe.txt"
CHECKPOINT = "checkpoint.pth.tar"
STEPS_SAVE = 100  # what a stopped training has to do again at most
TAIL = 600  # characters of a failed step's log that are shown


@dataclass(frozen=True)
class Step:
    """One command and the folder that it fills.

    recipe: all that decides what comes out: every option's value, and instead of a folder of this experiment the
    recipe of what is in it. Steps of the same recipe make the same, whatever they are called.
    """

    folder: Path
    command: tuple[str, ...]
    recipe: dict

    @property
    def text(self) -> str:
        return shlex.join(["python", *self.command])


@dataclass(frozen=True)
class Chain:
    """The steps of one arm with one seed, done one after the other; they may need what another chain has made."""

    arm: Arm
    seed: int
    steps: tuple[Step, ...]

    @property
    def report(self) -> Path:
        return self.steps[-1].folder / "report.json"


def data_folder(folder: Path, name: str) -> Path:
    """Where an experiment's data of that name are."""
    return folder / "data" / name


def data_steps(plan: Plan, folder: Path) -> list[Step]:
    """What writes the clips that all arms need."""
    places = {name: data_folder(folder, name) for name in plan.data}
    return [
        Step(places[name], ("-m", module, str(places[name]), *options), {"module": module, "options": list(options)})
        for name, (module, *options) in plan.data.items()
    ]


def chains(plan: Plan, folder: Path) -> list[Chain]:
    """All that is to be trained and evaluated: first what waits for nothing, so that all jobs have work."""
    pairs = [(arm, seed) for seed in plan.seeds for arm in plan.arms if seed in plan.seeds_of(arm)]
    pairs.sort(key=lambda pair: _depth(plan, pair[0]))
    recipes = {str(step.folder): step.recipe for step in data_steps(plan, folder)}
    return [_chain(plan, folder, arm, seed, recipes) for arm, seed in pairs]


def _depth(plan: Plan, arm: Arm) -> int:
    """How many arms it builds on."""
    start = plan.arm(arm.start)
    return 0 if start is None else 1 + _depth(plan, start)


def _chain(plan: Plan, folder: Path, arm: Arm, seed: int, recipes: dict[str, dict]) -> Chain:
    """The steps of an arm; ``recipes``, by the path of what they make, holds those it needs and is given its own."""
    common = [*plan.options, *_data_options(arm, folder), *arm.network]
    steps, weights = [], _weights(plan, folder, arm.start, seed)
    if arm.train is not None:
        command = ["--training", *common, *arm.train, "--weights", weights, "--seed", str(seed)]
        command += ["--steps-loss", "0", "--steps-save", str(STEPS_SAVE)]
        steps.append(_main_step(_place(folder, arm, seed) / "train", command, recipes))
        weights = str(steps[0].folder / CHECKPOINT)
        recipes[weights] = steps[0].recipe
    command = ["--eval-mode", *common, *arm.evaluate, "--weights", weights]
    return Chain(arm, seed, (*steps, _main_step(_place(folder, arm, seed) / "eval", command, recipes)))


def _main_step(place: Path, command: list[str], recipes: dict[str, dict]) -> Step:
    command = [*command, "--savedir", str(place)]
    values = vars(build_parser().parse_args(command))
    del values["savedir"]
    values["data_root"] = values["data_root"] or os.environ.get(CITYSCAPES_VARIABLE)
    recipe = {name: recipes.get(value, value) if isinstance(value, str) else value for name, value in values.items()}
    return Step(place, ("main.py", *command), recipe)


def _place(folder: Path, arm: Arm, seed: int) -> Path:
    return folder / arm.folder / f"seed{seed}"


def _data_options(arm: Arm, folder: Path) -> list[str]:
    return [] if arm.data is None else ["--data-root", str(data_folder(folder, arm.data))]


def _weights(plan: Plan, folder: Path, start: str, seed: int) -> str:
    """The last weights of an arm, not its best ones: those are chosen by the clips that are scored."""
    arm = plan.arm(start)
    if arm is None:
        return start
    if arm.train is None:
        return _weights(plan, folder, arm.start, seed)
    return str(_place(folder, arm, seed) / "train" / CHECKPOINT)


class Runner:
    """Does steps with ``jobs`` processes side by side, of ``threads`` threads each.

    library: the folder of this and of other experiments, in which steps of the same recipe may have been done.
    """

    def __init__(self, jobs: int, threads: int, library: Path):
        self.jobs, self.threads, self.library = jobs, threads, library
        self._stopped = threading.Event()

    def run(self, data: Iterable[Step], all_chains: Iterable[Chain]) -> None:
        """Raises ``IncompleteError`` where a command fails; what runs beside it is let go on to its end."""
        for step in data:
            self._do(step)
        pool = ThreadPoolExecutor(self.jobs)
        # A chain is handed in after those it starts from: they run or are done when it waits for them.
        futures: dict[tuple[str, int], Future] = {}
        try:
            for chain in all_chains:
                start = futures.get((chain.arm.start, chain.seed))
                futures[chain.arm.name, chain.seed] = pool.submit(self._do_chain, chain, start)
            for future in futures.values():
                future.result()
        finally:
            self._stopped.set()
            pool.shutdown(cancel_futures=True)

    def _do_chain(self, chain: Chain, start: Future | None) -> None:
        if start is not None:
            start.result()
        for step in chain.steps:
            if not self._stopped.is_set():
                self._do(step)

    def _do(self, step: Step) -> None:
        done = step.folder / DONE
        if done.is_file():
            if done.read_text(encoding="utf-8").strip() != step.text:
                raise OptionError(
                    f"{step.folder}: holds the result of another command than {step.text}: name a new --savedir"
                )
            return
        goes_on = (step.folder / CHECKPOINT).is_file()
        twin = None if goes_on else self._twin(step)
        if twin is None:
            log.info("%s", step.text)
            self._execute(step, goes_on)
            write_text(step.folder / RECIPE, self._recipe_text(step))
        else:
            log.info("%s: copied from %s, which is the same", step.folder, twin)
            _copy(twin, step.folder)
        write_text(done, step.text + "\n")

    def _execute(self, step: Step, goes_on: bool) -> None:
        step.folder.mkdir(parents=True, exist_ok=True)
        path = step.folder.with_suffix(".log") if step.command[0] == "-m" else step.folder / LOG
        with path.open("a", encoding="utf-8") as output:
            status = subprocess.run(
                [sys.executable, *step.command, *(["--resume"] if goes_on else [])],
                cwd=PROJECT,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ).returncode
        if status:
            tail = path.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip().splitlines()
            raise IncompleteError(f"{step.text}: ended with status {status}: {tail[-1] if tail else 'it said nothing'}")

    def _recipe_text(self, step: Step) -> str:
        recipe = {"threads": self.threads, "pytorch": torch.__version__, **step.recipe}
        return json.dumps(recipe, indent=1, sort_keys=True) + "\n"

    def _twin(self, step: Step) -> Path | None:
        """A folder in which the same was done."""
        text = self._recipe_text(step)
        for pattern in (f"*/data/*/{RECIPE}", f"*/*/seed*/*/{RECIPE}"):
            for path in sorted(self.library.glob(pattern)):
                if (path.parent / DONE).is_file() and path.read_text(encoding="utf-8") == text:
                    return path.parent
        return None


def _copy(source: Path, target: Path) -> None:
    """Copies what a step made, beside its place at first, but not the mark that it is done: that says where it is."""
    part = target.with_name(target.name + PART)
    try:
        for old in (part, target):
            if old.exists():
                shutil.rmtree(old)
        shutil.copytree(source, part, ignore=shutil.ignore_patterns(DONE))
        part.rename(target)
    except OSError as error:
        raise IncompleteError(f"{source}: cannot be copied to {target} ({error}); name another --savedir") from error


def run_plan(plan: Plan, folder: Path, jobs: int, threads: int, told: Callable[[list[Chain]], None]) -> None:
    """Does all that is left of an experiment; ``told`` is given what there is to report, also where it is stopped."""
    all_chains = chains(plan, folder)
    write_text(
        folder / "commands.txt",
        "\n".join(step.text for step in [*data_steps(plan, folder), *(s for c in all_chains for s in c.steps)]) + "\n",
    )
    try:
        Runner(jobs, threads, folder.parent).run(data_steps(plan, folder), all_chains)
    finally:
        told([chain for chain in all_chains if chain.report.is_file()])
