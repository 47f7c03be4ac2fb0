"""Runs the commands of an experiment, several in parallel, and resumes a stopped one.

A command runs ``main.py``, or a module that writes data, in a process of its own with a fixed number of threads. A
completed step has its command in a file beside its results, and is not repeated. Results of the same recipe in a
neighboring experiment are copied: all have a control arm, and most the same data.
"""

import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch

from datasets.cityscapes import CITYSCAPES_VARIABLE
from engine.experiments.plan import Arm, Plan
from engine.options.parser import build_parser
from engine.version import program_digest as _program_digest
from utils.errors import IncompleteError, OptionError
from utils.files import PART, open_to_append, write_text
from utils.json_text import to_json
from utils.printable import printable
from utils.system_files import is_system_file

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[2]
DONE, LOG, RECIPE = "done.txt", "log.txt", ".recipe.json"
CHECKPOINT, BEST = "checkpoint.pth.tar", "model_best.pth"
STEPS_SAVE = 100  # a stopped training repeats at most this many steps
TAIL = 600  # characters of a failed step's log that are shown


@dataclass(frozen=True)
class Step:
    """One command and the folder of its results.

    ``options`` are the values of all options but the folder, and but those that are results of other steps, which are
    in ``inputs``.
    """

    folder: Path
    command: tuple[str, ...]
    options: Mapping[str, object]
    inputs: dict[str, "Step"] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The command as it is typed."""
        return shlex.join(["python", *self.command])

    @property
    def recipe_file(self) -> Path:
        """Path of the step's recipe, beside its folder."""
        return self.beside(RECIPE)

    def beside(self, ending: str) -> Path:
        """The file with that ending beside the folder."""
        return self.folder.with_name(self.folder.name + ending)


@dataclass(frozen=True)
class Chain:
    """The steps of one arm with one seed, in order; they may depend on another chain."""

    arm: Arm
    seed: int
    steps: tuple[Step, ...]

    @property
    def report(self) -> Path:
        """Path of the report of the evaluation, the last step."""
        return self.steps[-1].folder / "report.json"


def data_folder(folder: Path, name: str) -> Path:
    """Folder of a data set of an experiment."""
    return folder / "data" / name


def data_steps(plan: Plan, folder: Path) -> list[Step]:
    """The steps that write the data sets of a plan."""
    steps = []
    for name, (module, *options) in plan.data.items():
        place = data_folder(folder, name)
        values = {"module": module, "options": options, "data_root": os.environ.get(CITYSCAPES_VARIABLE)}
        steps.append(Step(place, ("-m", module, str(place), *options), values))
    return steps


def chains(plan: Plan, folder: Path) -> list[Chain]:
    """All trainings and evaluations, those without dependencies first, so that all jobs have work."""
    pairs = [(arm, seed) for seed in plan.seeds for arm in plan.arms if seed in plan.seeds_of(arm)]
    pairs.sort(key=lambda pair: _depth(plan, pair[0]))
    made = {str(step.folder): step for step in data_steps(plan, folder)}
    return [_chain(plan, folder, arm, seed, made) for arm, seed in pairs]


def _depth(plan: Plan, arm: Arm) -> int:
    """Number of arms that an arm depends on."""
    start = plan.arm(arm.start)
    return 0 if start is None else 1 + _depth(plan, start)


def _chain(plan: Plan, folder: Path, arm: Arm, seed: int, made: dict[str, Step]) -> Chain:
    """The steps of an arm; ``made`` maps paths of results to the steps that make them, and receives this arm's."""
    common = [*plan.options, *_data_options(arm, folder), *arm.network]
    steps, weights = [], _weights(plan, folder, arm.start, seed)
    if arm.train is not None:
        command = ["--training", *common, *arm.train, "--weights", weights, "--seed", str(seed)]
        command += ["--steps-loss", "0", "--steps-save", str(STEPS_SAVE)]
        steps.append(_main_step(arm, _place(folder, arm, seed) / "train", command, made))
        weights = _scored(folder, arm, seed)
        made[weights] = steps[0]
    command = ["--eval-mode", *common, *arm.evaluate, "--weights", weights]
    return Chain(arm, seed, (*steps, _main_step(arm, _place(folder, arm, seed) / "eval", command, made)))


def _main_step(arm: Arm, place: Path, command: list[str], made: dict[str, Step]) -> Step:
    command = [*command, "--savedir", str(place)]
    parser = build_parser()
    # By default the parser exits, without naming the arm.
    parser.error = partial(_refuse, arm)  # type: ignore[method-assign]  # for this parser alone
    values = vars(parser.parse_args(command))
    del values["savedir"]
    values["data_root"] = values["data_root"] or os.environ.get(CITYSCAPES_VARIABLE)
    inputs = {name: made[value] for name, value in values.items() if isinstance(value, str) and value in made}
    options = {name: value for name, value in values.items() if name not in inputs}
    return Step(place, ("main.py", *command), options, inputs)


def _refuse(arm: Arm, message: str) -> NoReturn:
    raise OptionError(f"arm {arm.name}: {message} (all options: main.py --help)")


def _place(folder: Path, arm: Arm, seed: int) -> Path:
    return folder / arm.folder / f"seed{seed}"


def _data_options(arm: Arm, folder: Path) -> list[str]:
    return [] if arm.data is None else ["--data-root", str(data_folder(folder, arm.data))]


def _weights(plan: Plan, folder: Path, start: str, seed: int) -> str:
    """Path of the weights of an arm that are scored, or of the file that it names."""
    arm = plan.arm(start)
    if arm is None:
        return start
    if arm.train is None:
        return _weights(plan, folder, arm.start, seed)
    return _scored(folder, arm, seed)


def _scored(folder: Path, arm: Arm, seed: int) -> str:
    """Path of an arm's last weights, or of its best ones where the evaluation's clips have not selected them."""
    return str(_place(folder, arm, seed) / "train" / (BEST if arm.scores_best else CHECKPOINT))


class Runner:
    """Runs steps in ``jobs`` parallel processes of ``threads`` threads each.

    ``library`` is the folder of this and of other experiments, whose results of the same recipe are copied.
    """

    def __init__(self, jobs: int, threads: int, library: Path):
        self.jobs, self.threads, self.library = jobs, threads, library
        self._stopped = threading.Event()

    def run(self, data: Iterable[Step], all_chains: Iterable[Chain]) -> None:
        """Runs all steps that are not completed.

        Raises ``IncompleteError`` where a command fails, once those beside it have ended, and ``OptionError`` where a
        folder holds results of another command.
        """
        for step in data:
            self._do(step)
        pool = ThreadPoolExecutor(self.jobs)
        # A chain is submitted after the one that it starts from, so that waiting for that cannot deadlock.
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
        recipe, begun = self._recipe(step), _holds_files(step.folder)
        if begun and _text(step.recipe_file) != recipe:
            recipe = None  # begun with another recipe: the results follow from neither
        step.folder.mkdir(parents=True, exist_ok=True)
        if recipe is None:
            step.recipe_file.unlink(missing_ok=True)
        else:
            write_text(step.recipe_file, recipe)
        twin = None if begun or recipe is None else self._twin(recipe)
        if twin is None:
            log.info("%s", step.text)
            self._execute(step)
        else:
            log.info("%s: copied from %s, which is the same", step.folder, twin)
            _copy(twin, step.folder)
        write_text(done, step.text + "\n")

    def _execute(self, step: Step) -> None:
        # Modules that write data refuse a folder that is not empty.
        path = step.beside(".log") if step.command[0] == "-m" else step.folder / LOG
        goes_on = ["--resume"] if (step.folder / CHECKPOINT).is_file() else []
        with open_to_append(path) as output:
            status = subprocess.run(
                [sys.executable, *step.command, *goes_on],
                cwd=PROJECT,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ).returncode
        if status:
            tail = path.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip().splitlines()
            raise IncompleteError(
                f"{step.text}: ended with status {status}: {tail[-1] if tail else 'it printed nothing'}"
            )

    def _recipe(self, step: Step) -> str | None:
        """All that determines the results of a step, as JSON; ``None`` where an input has no recipe.

        Files are represented by their digests, inputs by the digests of their recipes.
        """
        values = {name: _content(value) for name, value in step.options.items()}
        for name, source in step.inputs.items():
            if not source.recipe_file.is_file():
                return None
            values[name] = _content(source.recipe_file)
        circumstances = {"threads": self.threads, "pytorch": torch.__version__, "program": _program_digest()}
        return to_json({**values, **circumstances}, sort_keys=True)

    def _twin(self, recipe: str) -> Path | None:
        """A folder with results of the same recipe; ``None`` where there is none."""
        for pattern in (f"*/data/*{RECIPE}", f"*/*/seed*/*{RECIPE}"):
            for path in sorted(self.library.glob(pattern)):
                folder = path.with_name(path.name.removesuffix(RECIPE))
                if (folder / DONE).is_file() and _text(path) == recipe:
                    return folder
        return None


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and not all(is_system_file(path.name) for path in folder.iterdir())


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _content(value: object) -> object:
    """A value with the paths of files replaced by their SHA-256, in lists too."""
    if isinstance(value, list):
        return [_content(each) for each in value]
    if not isinstance(value, str | Path) or not (PROJECT / value).is_file():
        return value
    with (PROJECT / value).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path) -> None:
    """Copies the results of a step atomically, without its ``DONE`` file, which contains the name of its folder."""
    part = target.with_name(target.name + PART)
    try:
        if part.exists():
            shutil.rmtree(part)
        target.rmdir()  # it is empty
        # Links stay links: pseudo labels link to a data set, which may be large.
        shutil.copytree(source, part, symlinks=True, ignore=shutil.ignore_patterns(DONE))
        os.sync()
        part.rename(target)
    except OSError as error:
        raise IncompleteError(f"{source}: cannot be copied to {target} ({error}); name another --savedir") from error


def run_plan(plan: Plan, folder: Path, jobs: int, threads: int, report: Callable[[list[Chain]], None]) -> None:
    """Runs the remaining steps of an experiment; at the end, also after an error, reports the completed chains."""
    data, all_chains = data_steps(plan, folder), chains(plan, folder)
    steps = [*data, *(step for chain in all_chains for step in chain.steps)]
    write_text(folder / "commands.txt", "\n".join(printable(step.text) for step in steps) + "\n")
    try:
        Runner(jobs, threads, folder.parent).run(data, all_chains)
    finally:
        report([chain for chain in all_chains if chain.report.is_file()])
