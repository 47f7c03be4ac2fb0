"""Copies beside computing, as far as a machine without a GPU shows them."""

import threading

import numpy as np
import torch

from utils.transfer import fetched, pinned, sent

CPU = torch.device("cpu")


def test_on_the_cpu_it_is_computed_where_it_is_waited_for():
    threads = []

    def compute() -> torch.Tensor:
        threads.append(threading.current_thread().name)
        return torch.arange(6, dtype=torch.uint8).view(2, 3)

    wait, found = fetched(compute, CPU), []
    assert threads == []
    other = threading.Thread(target=lambda: found.append(wait()), name="other")
    other.start()
    other.join()
    assert threads == ["other"]
    assert found[0].dtype == np.uint8 and found[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_on_the_cpu_nothing_is_copied():
    image = torch.zeros(1, 3, 4, 5, dtype=torch.uint8)
    assert pinned(image, CPU) is image and sent(image, CPU) is image
