"""Runs the commands of an experiment, several side by side, and goes on where it was stopped.

Every command is one of ``main.py`` or of what writes data, in a process of its own with a fixed number of threads,
and is written down. A step that is done leaves its command in a file beside what it made; it is not done again.
"""

import logging
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engine.experiments.plan import Arm, Plan
from utils.errors import OptionError, TrainingError
from utils.files import write_text

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[2]
DONE, LOG = "done.txt", "log.txt"
STEPS_SAVE = 100  # what a stopped training has to do again at most
TAIL = 600  # characters of a failed step's log that are shown


@dataclass(frozen=True)
class Step:
    """One command and the folder that it fills."""

    folder: Path
    command: tuple[str, ...]

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


def data_steps(plan: Plan, folder: Path) -> list[Step]:
    return [
        Step(folder / "data" / name, ("-m", module, str(folder / "data" / name), *options))
        for name, (module, *options) in plan.data.items()
    ]


def chains(plan: Plan, folder: Path) -> list[Chain]:
    """All that is to be trained and evaluated: first what waits for nothing, so that all jobs have work."""
    pairs = [(arm, seed) for seed in plan.seeds for arm in plan.arms if seed in plan.seeds_of(arm)]
    pairs.sort(key=lambda pair: _depth(plan, pair[0]))
    return [_chain(plan, folder, arm, seed) for arm, seed in pairs]


def _depth(plan: Plan, arm: Arm) -> int:
    """How many arms it builds on."""
    start = plan.arm(arm.start)
    return 0 if start is None else 1 + _depth(plan, start)


def _chain(plan: Plan, folder: Path, arm: Arm, seed: int) -> Chain:
    common = [*plan.options, *_data_options(arm, folder), *arm.network]
    steps, weights = [], _weights(plan, folder, arm.start, seed)
    if arm.train is not None:
        place = _place(folder, arm, seed) / "train"
        command = ["--training", *common, *arm.train, "--weights", weights, "--seed", str(seed)]
        command += ["--steps-loss", "0", "--steps-save", str(STEPS_SAVE), "--savedir", str(place)]
        steps.append(Step(place, ("main.py", *command)))
        weights = str(place / "checkpoint.pth.tar")
    place = _place(folder, arm, seed) / "eval"
    command = ["--eval-mode", *common, *arm.evaluate, "--weights", weights, "--savedir", str(place)]
    return Chain(arm, seed, (*steps, Step(place, ("main.py", *command))))


def _place(folder: Path, arm: Arm, seed: int) -> Path:
    return folder / arm.folder / f"seed{seed}"


def _data_options(arm: Arm, folder: Path) -> list[str]:
    return [] if arm.data is None else ["--data-root", str(folder / "data" / arm.data)]


def _weights(plan: Plan, folder: Path, start: str, seed: int) -> str:
    """The last weights of an arm, not its best ones: those are chosen by the clips that are scored."""
    arm = plan.arm(start)
    if arm is None:
        return start
    if arm.train is None:
        return _weights(plan, folder, arm.start, seed)
    return str(_place(folder, arm, seed) / "train" / "checkpoint.pth.tar")


class Runner:
    """Does steps with ``jobs`` processes side by side, of ``threads`` threads each."""

    def __init__(self, jobs: int, threads: int):
        self.jobs, self.threads = jobs, threads
        self._stopped = threading.Event()

    def run(self, data: Iterable[Step], all_chains: Iterable[Chain]) -> None:
        """Raises ``TrainingError`` where a command fails; what runs beside it is let go on to its end."""
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
        log.info("%s", step.text)
        goes_on = ["--resume"] if (step.folder / "checkpoint.pth.tar").is_file() else []
        step.folder.mkdir(parents=True, exist_ok=True)
        path = step.folder.with_suffix(".log") if step.command[0] == "-m" else step.folder / LOG
        with path.open("a", encoding="utf-8") as output:
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
            raise TrainingError(f"{step.text}: ended with status {status}: {tail[-1] if tail else 'it said nothing'}")
        write_text(done, step.text + "\n")


def run_plan(plan: Plan, folder: Path, jobs: int, threads: int, told: Callable[[list[Chain]], None]) -> None:
    """Does all that is left of an experiment; ``told`` is given what there is to report, also where it is stopped."""
    all_chains = chains(plan, folder)
    write_text(
        folder / "commands.txt",
        "\n".join(step.text for step in [*data_steps(plan, folder), *(s for c in all_chains for s in c.steps)]) + "\n",
    )
    try:
        Runner(jobs, threads).run(data_steps(plan, folder), all_chains)
    finally:
        told([chain for chain in all_chains if chain.report.is_file()])
