"""Which precision convolutions on a GPU have in each mode."""

from dataclasses import replace

import pytest
import torch

from engine import launch
from engine.options.parser import parse_options


@pytest.mark.parametrize(
    "tf32, in_training, in_evaluation", [(None, True, False), ("on", True, True), ("off", False, False)]
)
def test_evaluations_are_float32_unless_asked_otherwise(monkeypatch, tf32, in_training, in_evaluation):
    found = {}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)  # put back at the end
    for mode in ("training", "evaluation"):
        note = lambda *_, mode=mode: found.setdefault(mode, torch.backends.cudnn.allow_tf32)  # noqa: E731
        monkeypatch.setattr(launch, f"run_{mode}", note)
    words = ["--training", "--weights", "none", "--savedir", "s", *(["--tf32", tf32] if tf32 else [])]
    training = parse_options(words)
    for settings in (training, replace(training, training=False, eval_mode=True)):
        launch.run_modes(settings, torch.device("cpu"), None)
    assert found == {"training": in_training, "evaluation": in_evaluation}
