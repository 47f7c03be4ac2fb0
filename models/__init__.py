"""The networks: backbones, memory, local attention, fusion, and the video network made of them.

The names below are loaded on first use, so that ``models.config`` can be read without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.backbone import BackboneTraits as BackboneTraits
    from models.backbone import register_backbone as register_backbone
    from models.config import LMANetConfig as LMANetConfig
    from models.cut.card import make_video as make_video
    from models.cut.card import register_network as register_network
    from models.description import describe as describe
    from models.inference.segmenter import VideoSegmenter as VideoSegmenter
    from models.lmanet import LMANet as LMANet
    from models.lmanet import build_lmanet as build_lmanet
    from models.memory import Memory as Memory
    from models.weights.export import export_weights as export_weights
    from models.weights.load import load_weights as load_weights

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
    "make_video": "models.cut.card",
    "register_backbone": "models.backbone",
    "register_network": "models.cut.card",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
