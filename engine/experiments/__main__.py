"""Run an experiment: train and evaluate all arms of its plan with all seeds, and write tables and a figure.

    python -m engine.experiments headline
    python -m engine.experiments window --savedir save/window --jobs 4

The same command resumes a stopped experiment. Jobs of one thread each are reproducible on the same machine.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.experiments.figure import figure_png
from engine.experiments.plan import names, read_plan
from engine.experiments.results import csv_text, markdown, positions, read_results, results_files
from engine.experiments.runner import Chain, chains, data_steps, run_plan
from utils.command import log_to_stderr, module_parser, run_command, run_program, whole_number
from utils.files import writable_folder, write_bytes, write_text
from utils.lock import FolderLock
from utils.printable import printable


@dataclass(frozen=True)
class _Options:
    """The options of the command, by name."""

    name: str
    savedir: str | None
    jobs: int
    threads: int
    dry_run: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs an experiment; returns 0, 1 after a failed command, 2 for wrong input, 130 after Ctrl-C."""
    return run_command(_parser(), argv, lambda found: _run(_Options(**vars(found))), "the same command resumes")


def _parser() -> argparse.ArgumentParser:
    parser = module_parser("engine.experiments", __doc__)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(names())}, or a .toml file of a plan")
    parser.add_argument("--savedir", metavar="DIR", help="output folder (save/experiments/NAME)")
    parser.add_argument(
        "--jobs",
        type=whole_number(1),
        default=os.cpu_count() or 1,
        metavar="N",
        help="parallel commands (number of cores)",
    )
    parser.add_argument("--threads", type=whole_number(1), default=1, metavar="N", help="threads per command (1)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands without running them")
    return parser


def _run(options: _Options) -> None:
    log_to_stderr()
    plan = read_plan(options.name)
    folder = Path(options.savedir or f"save/experiments/{plan.name}").resolve()
    circumstances = f"{options.threads} threads a command, PyTorch {torch.__version__}, seeds {plan.seeds}."

    def report(done: list[Chain]) -> None:
        """Writes table, figures and picture of the chains that are done, and prints the table."""
        results = read_results(done)
        if not results:
            return
        table, figures, picture = results_files(folder)
        at = positions(plan, results, folder)
        text = markdown(plan, results, circumstances, at)
        write_text(table, text)
        write_text(figures, csv_text(results))
        write_bytes(picture, figure_png(plan, results, at))
        print(printable(text, keeps="\n"))
        print(f"table: {table}, figures: {figures}, picture: {picture}, commands: {folder / 'commands.txt'}")

    if options.dry_run:
        steps = [*data_steps(plan, folder), *(step for chain in chains(plan, folder) for step in chain.steps)]
        print("\n".join(printable(step.text) for step in steps))
        return
    with FolderLock(writable_folder(folder, "--savedir"), "--savedir"):
        run_plan(plan, folder, options.jobs, options.threads, report)


if __name__ == "__main__":
    run_program(main)
