"""The order of samples in each epoch and on each rank, and errors that come out of workers."""

import gc
import multiprocessing
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datasets.sampling import EpochSampler, clean_worker_error, seeded_generator
from utils.errors import DataError, OptionError


def indices(sampler: EpochSampler) -> list[int]:
    return [index for _, index in sampler]


def test_without_shuffling():
    assert list(EpochSampler(3, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]


def test_order_follows_from_seed_and_epoch():
    sampler = EpochSampler(50, seed=3)
    sampler.set_epoch(4)
    items = list(sampler)
    assert {epoch for epoch, _ in items} == {4}
    assert sorted(indices(sampler)) == list(range(50))
    again = EpochSampler(50, seed=3)
    again.set_epoch(4)
    assert list(again) == items
    again.set_epoch(5)
    assert indices(again) != indices(sampler)
    other = EpochSampler(50, seed=4)
    other.set_epoch(4)
    assert indices(other) != indices(sampler)


def test_resuming_inside_of_an_epoch():
    sampler = EpochSampler(10, seed=1)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start=7)
    assert (list(sampler), len(sampler)) == (whole[7:], 3)
    sampler.set_epoch(2, start=10)
    assert (list(sampler), len(sampler)) == ([], 0)
    sampler.set_epoch(2)
    assert (list(sampler), len(sampler)) == (whole, 10)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("length", "world_size"), [(10, 3), (9, 3), (2, 5), (1, 1), (7, 2)])
def test_training_shares_as_distributed_sampler_makes_them(length, world_size, drop_last):
    for rank in range(world_size):
        ours = EpochSampler(length, shuffle=False, drop_last=drop_last, rank=rank, world_size=world_size)
        theirs = DistributedSampler(range(length), world_size, rank, shuffle=False, drop_last=drop_last)
        # Theirs keeps one sample a rank even where there are fewer samples than ranks; ours leaves them out.
        expected = list(theirs) if not (drop_last and length < world_size) else []
        assert indices(ours) == expected
        assert len(ours) == len(expected)


def test_shares_by_hand():
    shares = [indices(EpochSampler(7, shuffle=False, rank=rank, world_size=3)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 0], [2, 5, 1]]
    shares = [indices(EpochSampler(7, shuffle=False, pad=False, rank=rank, world_size=3)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    shares = [indices(EpochSampler(7, shuffle=False, drop_last=True, rank=rank, world_size=3)) for rank in range(3)]
    assert shares == [[0, 3], [1, 4], [2, 5]]


def test_ranks_share_one_shuffled_order():
    shares = [indices(EpochSampler(11, seed=5, pad=False, rank=rank, world_size=4)) for rank in range(4)]
    assert sorted(index for share in shares for index in share) == list(range(11))
    assert [len(EpochSampler(11, pad=False, rank=rank, world_size=4)) for rank in range(4)] == [3, 3, 3, 2]


@pytest.mark.parametrize(("length", "rank", "world_size"), [(-1, 0, 1), (3, 2, 2), (3, -1, 2)])
def test_wrong_ranks(length, rank, world_size):
    with pytest.raises(ValueError, match="expected"):
        EpochSampler(length, rank=rank, world_size=world_size)


def test_generators_of_different_seeds_differ():
    drawn = [torch.rand(1, generator=seeded_generator(*seeds)).item() for seeds in [(1, 2), (2, 1), (1, 2, 0), (1, 3)]]
    assert len(set(drawn)) == 4
    assert drawn[0] == torch.rand(1, generator=seeded_generator(1, 2)).item()


class Failing(Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        try:
            raise OSError("utils.errors.DataError: a cause that is not the point")
        except OSError as cause:
            raise self.error from cause


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [DataError, OptionError])
def test_error_of_a_worker_is_one_line_again(workers, kind):
    with pytest.raises(kind) as caught:
        list(DataLoader(Failing(kind("image a: b.png cannot be read")), num_workers=workers))
    error = clean_worker_error(caught.value)
    assert (type(error), str(error)) == (kind, "image a: b.png cannot be read")


def test_workers_of_a_failed_loader_stop_at_once():
    with pytest.raises(DataError) as caught:
        list(DataLoader(Failing(DataError("one line")), num_workers=2))
    clean_worker_error(caught.value)
    start = time.perf_counter()
    gc.collect()
    assert time.perf_counter() - start < 4  # 10 seconds where the iterator is left to the garbage collector
    assert not multiprocessing.active_children()


def test_other_errors_are_not_cleaned():
    assert clean_worker_error(RuntimeError("out of memory")) is None
