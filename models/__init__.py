"""What is computed: backbones, memory, local attention, fusion and the video network made of them.

The names below are loaded on first use, so that ``models.config`` can be read without importing torch.
"""

from importlib import import_module

_HOME = {
    "BackboneTraits": "models.backbone",
    "LMANetConfig": "models.config",
    "LMANet": "models.lmanet",
    "Memory": "models.memory",
    "VideoSegmenter": "models.inference.segmenter",
    "build_lmanet": "models.lmanet",
    "describe": "models.description",
    "export_weights": "models.weights.export",
    "load_weights": "models.weights.load",
    "register_backbone": "models.backbone",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
