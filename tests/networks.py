"""Networks for the 19 classes of Cityscapes and what is ignored, and the traits of all backbones by name."""

from collections.abc import Iterator, MutableMapping
from functools import partial

import pytest

import models
from models import backbone
from models.backbone import BackboneTraits
from utils.errors import OptionError

LMANetConfig = partial(models.LMANetConfig, num_classes=20)


def refusal_of(name: str) -> str:
    """The one line that says why there is no backbone of a name."""
    with pytest.raises(OptionError) as error:
        backbone.backbone_card(name)
    assert "\n" not in str(error.value)
    return str(error.value)


class _Backbones(MutableMapping):
    """The traits of every registered backbone; deleting one takes it out of the registry."""

    def __getitem__(self, name: str) -> BackboneTraits:
        return backbone.backbone_card(name).traits

    def __setitem__(self, name: str, traits: BackboneTraits) -> None:
        raise TypeError("backbones are registered with models.register_backbone")

    def __delitem__(self, name: str) -> None:
        for registered in (backbone._CARDS, backbone._LATER):
            registered.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(backbone.backbone_names())

    def __len__(self) -> int:
        return len(backbone.backbone_names())


BACKBONES = _Backbones()
