"""The way of the GPU to a step's gradients, on the CPU: its processes learn what those do that go clip by clip."""

import sys

import pytest

from engine.training import setup
from engine.training.gradients import BatchLearner
from main import main
from tests.engine.running import checkpoint_of, started

# Without batch norms in train mode, which PyTorch synchronizes on CUDA only, and without dropout.
OPTIONS = "--training --num-epochs 2 --baseline-mode --train-decoder --encoder-eval-mode --decoder-eval-mode --iouTrain"
IN_BATCHES = "tests/engine/training/test_gradients.py"


def in_batches(settings, model, device, scaler) -> BatchLearner:
    return BatchLearner(setup.spread(settings, model, device), scaler)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_batches_in_two_processes_learn_what_clips_do(command, six_clips, tmp_path, cached):
    sizes = ["--batch-size", "1", "--accumulate", "2", "--gpus", "2"]
    if cached:  # the second one trains on what the first one has stored
        sizes += ["--cache-features", str(tmp_path / "features"), "--feature-variants", "50"]
    ends = []
    for launcher in (("main.py",), (IN_BATCHES,)):
        folder = tmp_path / str(len(ends))
        run = started(command(*OPTIONS.split(), *sizes, data=six_clips, savedir=folder), *launcher)
        error = run.communicate(timeout=300)[1]
        assert run.returncode == 0, error
        ends.append(checkpoint_of(folder))
    clips, batches = ends
    assert [row[1:] for row in batches["rows"]] == [pytest.approx(row[1:], rel=1e-4) for row in clips["rows"]]
    differences = [(tensor - batches["state_dict"][name]).abs() for name, tensor in clips["state_dict"].items()]
    assert max(each.max().item() for each in differences) < 1e-6


if __name__ == "__main__":
    from engine import processes

    processes.MAIN = __file__
    setup.learner_of = in_batches
    setup.distributed.synchronize_norms = lambda model: None  # they are in evaluation mode
    sys.exit(main())
