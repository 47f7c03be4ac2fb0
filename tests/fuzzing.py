"""Inputs damaged at random, and a process apart in which they are tried: crashes and hangs are found there too."""

import multiprocessing
import os
import random
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection

import torch

from utils.errors import UserError

CLEAN, RIGHT, FAILED = "clean error", "right result", "failed"
SECONDS_A_CASE = 120


class WrongResult(Exception):
    """A damaged input was accepted and gave something else than what it holds."""


def damaged(content: bytes, others: Iterable[bytes], rng: random.Random) -> bytes:
    """A file's content with bits turned, its end cut off, its header spoiled, or bytes put in, left out or exchanged;
    now and then the content of a file of another type."""
    data = bytearray(content)
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 8, 100, 5000)))
    kind = rng.randrange(9)
    if kind <= 2:
        for _ in range(rng.choice((1, 1, 2, 8, 50))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        del data[start:]
    elif kind == 4:
        length = rng.choice((1, 4, 8, 32, 128))
        data[:length] = rng.randbytes(length)
    elif kind == 5:
        data[rng.randrange(min(200, len(data)))] = rng.choice((0, 1, 127, 128, 255))
    elif kind == 6:
        data[start:end] = rng.choice((bytes(end - start), rng.randbytes(end - start), b"\xff" * (end - start)))
    elif kind == 7:
        data[start:end] = rng.choice((b"", bytes(data[start:end]) * 2, rng.randbytes(3)))
    else:
        data = bytearray(rng.choice((*others, b"", rng.randbytes(1000), b"\0" * 1000)))
    return bytes(data)


def outcomes(case: Callable[[int], str | None], seeds: Iterable[int], talking: bool = False) -> Counter[str]:
    """How often a case, tried with each seed, ended in an error that a user can read and how often in a right result.

    A case returns where its result is right, possibly with a word on its kind, and raises ``WrongResult`` where it is
    not. Anything else (another exception, an error of several lines, a process that dies or hangs, words of a library
    on stderr unless it is known to be ``talking``) fails, with the seed.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_try_all, args=(case, seeds, sender, talking))
    child.start()
    sender.close()
    counts, failures = Counter(), []
    for seed in seeds:
        try:
            outcome, text = receiver.recv() if receiver.poll(SECONDS_A_CASE) else (FAILED, "no end")
        except EOFError:
            child.join()
            outcome, text = FAILED, f"the process died with {child.exitcode}"
        counts[outcome] += 1
        if outcome == FAILED:
            failures.append(f"seed {seed}: {text}")
        if (not child.is_alive() and child.exitcode) or text == "no end":
            break
    child.kill()
    child.join()
    assert not failures, f"{len(failures)} of {counts.total()}\n" + "\n".join(failures[:20])
    return counts


def _try_all(case: Callable[[int], str | None], seeds: Iterable[int], sender: Connection, talking: bool) -> None:
    torch.set_num_threads(1)  # a pool of threads that was used before the fork never answers after it
    with tempfile.TemporaryFile() as words:
        os.dup2(words.fileno(), 2)
        for seed in seeds:
            outcome, text = _outcome(case, seed)
            if words.seek(0, os.SEEK_END) and not talking:
                words.seek(0)
                outcome, text = FAILED, f"{outcome}, and on stderr: {words.read().decode(errors='replace')}"
                words.seek(0)
                words.truncate()
            sender.send((outcome, text))
    os._exit(0)


def _outcome(case: Callable[[int], str | None], seed: int) -> tuple[str, str]:
    try:
        return f"{RIGHT}{case(seed) or ''}", ""
    except UserError as error:
        text = str(error)
        return (CLEAN, text) if text and "\n" not in text else (FAILED, f"error of several lines: {text!r}")
    except WrongResult as error:
        return FAILED, f"wrong result: {error}"
    except BaseException:
        return FAILED, traceback.format_exc()
