"""Several processes that work together: starting them, what torchrun says about this one, and what a failed one means.

Several processes of our own are what ``torchrun`` would start: the same command line once more for each, with the
environment that names its rank.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from utils.command import EXIT_WRONG_INPUT
from utils.errors import OptionError, UserError

MAIN = Path(__file__).resolve().parents[1] / "main.py"
RANK_VARIABLES = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
EXIT_FAILED = 1
EXIT_LOST_PEER = 75  # EX_TEMPFAIL: nothing was wrong in this process
EXIT_TERMINATED = 128 + signal.SIGTERM
MEETING_SECONDS = 600
# A process that lost another one waits so long before it ends, so that whoever watches sees first who ended first.
GRACE_SECONDS = 2.0
LOCK_PATIENCE_SECONDS = 15.0


def is_rank() -> bool:
    """Whether torchrun, or this program, started this process as one of several."""
    return os.environ.keys() >= RANK_VARIABLES


def is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def wants_several(options: argparse.Namespace) -> bool:
    """Whether this process is to start others, rather than to work itself. Under torchrun its environment wins."""
    return not is_rank() and options.gpus * options.nodes > 1


def run_several(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Runs the command line ``arguments`` in ``--gpus`` processes here and gives the exit status for all of them.

    Where one fails, the others are ended, and the first one to fail is named. Raises ``OptionError`` where the machines
    do not meet.
    """
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # of torch's launcher, whose failures are told below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.gpus)))
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several_machines = options.nodes > 1
    config = LaunchConfig(
        min_nodes=options.nodes,
        max_nodes=options.nodes,
        nproc_per_node=options.gpus,
        run_id=f"{options.master_addr}:{options.mport}" if several_machines else uuid.uuid4().hex,
        # Machines keep the numbers they were given; on one machine any free port will do.
        rdzv_backend="static" if several_machines else "c10d",
        rdzv_endpoint=f"{options.master_addr}:{options.mport}" if several_machines else "localhost:0",
        rdzv_configs={"rank": options.nr, "timeout": MEETING_SECONDS},
        max_restarts=options.max_restarts,
        local_addr=None if several_machines else "localhost",
    )
    try:
        elastic_launch(config, sys.executable)(str(MAIN), *arguments)
    except ChildFailedError as error:
        return _told_failure(error.failures, options.savedir if options.training else None)
    except SignalException as stopped:
        return 128 + stopped.sigval
    except DistError as error:
        raise OptionError(
            f"--nodes {options.nodes}: the machines did not meet at {options.master_addr}:{options.mport} within "
            f"{MEETING_SECONDS} s: expected the same command on each, with --nr 0 ... {options.nodes - 1}"
        ) from error
    return 0


def _told_failure(failures: dict, savedir: str | None) -> int:
    """Says on stderr which process failed, and gives the status that stands for all."""
    ranks = sorted(failures)
    wrong_input = [rank for rank in ranks if failures[rank].exitcode == EXIT_WRONG_INPUT]
    if wrong_input:
        print(f"main.py: error: {failures[wrong_input[0]].message}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    stopped = [rank for rank in ranks if failures[rank].exitcode == EXIT_TERMINATED]
    # Those that ended since another one did are not to blame, and neither are those that the launcher ended.
    to_blame = [rank for rank in ranks if failures[rank].exitcode not in (EXIT_LOST_PEER, EXIT_TERMINATED)]
    to_blame = [rank for rank in to_blame if failures[rank].exitcode != -signal.SIGTERM] or to_blame
    if stopped and not to_blame:
        return EXIT_TERMINATED
    told = "; ".join(_end_of(rank, failures[rank]) for rank in to_blame)
    told = told or f"rank {ranks[0]} lost a process on another machine"
    rest = "; all others were ended"
    if savedir is not None:
        rest += f"; go on with --resume --savedir {savedir}"
    print(f"main.py: {told}{rest}", file=sys.stderr)
    return EXIT_FAILED


def _end_of(rank: int, failure: object) -> str:
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
    return f"rank {rank} (process {failure.pid}) {how}"


def tell_error(error: UserError) -> None:
    """Says an error once: by whoever started this process, or here where nobody did."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not (is_rank() and file):
        print(f"main.py: error: {error}", file=sys.stderr)
        return
    # What torch's launcher reads of a process that failed.
    Path(file).write_text(json.dumps({"message": str(error), "timestamp": str(int(time.time()))}))


def end_with_parent() -> None:
    """Ends this process soon after the one that started it is gone: no rank outlives its launcher."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(EXIT_LOST_PEER)

    if is_rank():
        threading.Thread(target=watch, name="parent watch", daemon=True).start()


def may_be_restarted() -> bool:
    """Whether this run may have been started before: by torchrun after a failure, or as a run with a name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" or (is_rank() and name != "none")


def lock_patience() -> float:
    """Seconds to wait for the folder: after a restart, processes of before may still be about to end."""
    return LOCK_PATIENCE_SECONDS if may_be_restarted() else 0.0
