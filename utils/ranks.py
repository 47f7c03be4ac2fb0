"""Which of several processes this one is, by the environment that torchrun, or this program, started it with.

Known before the processes have met, and without torch; ``utils.distributed`` is about them once they have.
"""

import os

RANK_VARIABLES = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}


def is_rank() -> bool:
    """Whether torchrun, or this program, started this process as one of several."""
    return os.environ.keys() >= RANK_VARIABLES


def is_first() -> bool:
    """Whether this is the process that writes files and logs: rank 0, or the only one."""
    return not is_rank() or os.environ["RANK"] == "0"
