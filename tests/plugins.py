"""Registries as they are without plugins, for tests that load some in this process."""

import contextlib
import sys
from collections.abc import Iterator

import pytest

from datasets import registry
from engine.evaluation import metric
from engine.options import plugins
from engine.streaming import output
from engine.training import schedule
from models import backbone


@contextlib.contextmanager
def registries_restored() -> Iterator[None]:
    """What is registered within is forgotten afterwards."""
    registry.dataset_names(), backbone.backbone_names(), metric.registered_metrics(), output.registered_outputs()
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (registry, "_ENTRIES"),
            (backbone, "_CARDS"),
            (backbone, "_LATER"),
            (metric, "_METRICS"),
            (output, "_OUTPUTS"),
            (schedule, "_SCHEDULES"),
        ):
            patch.setattr(module, name, dict(getattr(module, name)))
        patch.setattr(plugins, "_loaded", set())
        modules = set(sys.modules)
        yield
        for name in set(sys.modules) - modules:
            if name.startswith("plugin_"):
                del sys.modules[name]
