"""LR-ASPP on MobileNetV3-small: the network that streams at 15 frames a second on two cores, its memory included."""

from models.backbone import BackboneCard, register_later

NAME = "lraspp_small"


def _card() -> BackboneCard:
    from models.backbones.lraspp_small.network import card

    return card(NAME)


register_later(NAME, _card)
