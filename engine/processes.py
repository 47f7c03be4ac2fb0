"""Multi-process runs: launching the ranks, the environment of torchrun, and the exit status of a failed rank.

Ranks are started as by ``torchrun``: each with the same command line, and its rank in the environment.
"""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.options.settings import ProcessSettings
from utils.command import EXIT_LOST_PEER, EXIT_TERMINATED, EXIT_WRONG_INPUT, exit_status
from utils.errors import OptionError, StoppedError
from utils.files import write_text
from utils.json_text import to_json
from utils.printable import shown
from utils.ranks import is_first, is_rank

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

MAIN = Path(__file__).resolve().parents[1] / "main.py"
EXIT_FAILED = 1
MEETING_SECONDS = 600
# A process that lost another one delays its exit by this, so that the launcher sees the failed process first.
GRACE_SECONDS = 2.0
LOCK_TIMEOUT_SECONDS = 15.0


def wants_several(settings: ProcessSettings) -> bool:
    """Whether this process launches ranks rather than being one; the environment of torchrun takes precedence."""
    return not is_rank() and settings.gpus * settings.nodes > 1


def run_several(settings: ProcessSettings, arguments: Sequence[str], training_folder: str | None) -> int:
    """Runs a command line in ``settings.gpus`` processes on this machine and returns their common exit status.

    Where one fails, the others are ended, and the first one to fail is reported, with ``training_folder`` as the one to
    resume from. Raises ``OptionError`` where the machines do not rendezvous.
    """
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # of torch's launcher: failures are reported below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // settings.gpus)))
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several_machines = settings.nodes > 1
    config = LaunchConfig(
        min_nodes=settings.nodes,
        max_nodes=settings.nodes,
        nproc_per_node=settings.gpus,
        run_id=f"{settings.master_addr}:{settings.port}" if several_machines else uuid.uuid4().hex,
        # Several machines are numbered by --nr; on one machine any free port will do.
        rdzv_backend="static" if several_machines else "c10d",
        rdzv_endpoint=f"{settings.master_addr}:{settings.port}" if several_machines else "localhost:0",
        rdzv_configs={"rank": settings.node, "timeout": MEETING_SECONDS},
        max_restarts=settings.max_restarts,
        local_addr=None if several_machines else "localhost",
    )
    try:
        elastic_launch(config, sys.executable)(str(MAIN), *arguments)
    except ChildFailedError as error:
        return _report_failures(error.failures, training_folder)
    except SignalException as stopped:
        return 128 + stopped.sigval
    except DistError as error:
        raise OptionError(
            f"--nodes {settings.nodes}: the machines did not meet at {settings.master_addr}:{settings.port} within "
            f"{MEETING_SECONDS} s: expected the same command on each, with --nr 0 ... {settings.nodes - 1}"
        ) from error
    return 0


def _report_failures(failures: "Mapping[int, ProcessFailure]", savedir: str | None) -> int:
    """Prints on stderr which processes failed, and returns the common exit status."""
    ranks = sorted(failures)
    wrong_input = [rank for rank in ranks if failures[rank].exitcode == EXIT_WRONG_INPUT]
    if wrong_input:
        print(shown(f"main.py: error: {failures[wrong_input[0]].message}"), file=sys.stderr)
        return EXIT_WRONG_INPUT
    stopped = [rank for rank in ranks if failures[rank].exitcode == EXIT_TERMINATED]
    # Without those that only lost another process, and those that the launcher ended.
    failed = [rank for rank in ranks if failures[rank].exitcode not in (EXIT_LOST_PEER, EXIT_TERMINATED)]
    failed = [rank for rank in failed if failures[rank].exitcode != -signal.SIGTERM] or failed
    if stopped and not failed:
        return EXIT_TERMINATED
    reason = "; ".join(_end_of(rank, failures[rank]) for rank in failed)
    reason = reason or f"rank {ranks[0]} lost a process on another machine"
    rest = "; all others were ended"
    if savedir is not None:
        rest += f"; go on with --resume --savedir {savedir}"
    print(shown(f"main.py: {reason}{rest}"), file=sys.stderr)
    return EXIT_FAILED


def _end_of(rank: int, failure: "ProcessFailure") -> str:
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
    return f"rank {rank} (process {failure.pid}) {how}"


def tell_end(error: BaseException, line: str) -> None:
    """Reports an error once for all ranks: wrong input to the launcher, a stop by rank 0, anything else on stderr."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if exit_status(error) == EXIT_WRONG_INPUT and is_rank() and file:
        try:
            # The file that torch's launcher reads after a failure.
            write_text(file, to_json({"message": str(error), "timestamp": str(int(time.time()))}))
        except OSError:
            print(line, file=sys.stderr)
    elif is_first() or not isinstance(error, (StoppedError, KeyboardInterrupt)):
        print(line, file=sys.stderr)


def end_with_parent() -> None:
    """Ends this process soon after its parent: no rank outlives its launcher."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(EXIT_LOST_PEER)

    if is_rank():
        threading.Thread(target=watch, name="parent watch", daemon=True).start()


def may_be_restarted() -> bool:
    """Whether this run may be a restart: by torchrun after a failure, or as torchrun named the run."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" or (is_rank() and name != "none")


def lock_timeout() -> float:
    """Seconds to wait for the lock of the run's folder: after a restart, earlier processes may still be ending."""
    return LOCK_TIMEOUT_SECONDS if may_be_restarted() else 0.0
