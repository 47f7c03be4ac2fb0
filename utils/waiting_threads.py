"""How PyTorch's threads wait for work on a CPU: read by OpenMP from the environment when torch is imported."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAME, _SLEEPS = "GOMP_SPINCOUNT", "1000"
_is_set_here = False


def let_threads_sleep() -> None:
    """Lets threads that wait sleep at once, unless the user has said how they wait: otherwise they look for work for
    milliseconds, and take the processor from the threads of ONNX Runtime or OpenVINO."""
    global _is_set_here
    if _NAME not in os.environ:
        os.environ[_NAME], _is_set_here = _SLEEPS, True


@contextmanager
def as_without_other_runtimes() -> Iterator[None]:
    """Context in which new processes are as if ``let_threads_sleep`` had not been called."""
    said = os.environ.pop(_NAME, None) if _is_set_here else None
    try:
        yield
    finally:
        if said is not None:
            os.environ[_NAME] = said
