"""Segmentation models of transformers, from a folder's ``config.json``: no network is asked, no code of it is run."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.backbone import IMAGENET_MEAN, IMAGENET_STD, BackboneCard
from models.backbones.transformers_models.folder import folder_of, preprocessing, read_json
from models.cut.card import card_of
from models.extras import imported
from utils.errors import OptionError

# Where features are maps B C h w: behind transformers that return tokens, that is behind the first layers of the neck.
CUTS = {
    "BeitForSemanticSegmentation": "fpn",
    "Data2VecVisionForSemanticSegmentation": "fpn4",
    "DPTForSemanticSegmentation": "neck.reassemble_stage",
}
ENDING = "ForSemanticSegmentation"
ASIDE = ("auxiliary_head.",)


def card(name: str) -> BackboneCard:
    """The card of ``hf/FOLDER``; ``@STRIDE`` at the end names the level for the memory.

    Raises ``OptionError`` for a folder without ``config.json``, with code of its own, or of another kind of model.
    """
    folder, stride = folder_of(name)
    content, kind = _kind_of(folder, f"--backbone {name}")
    mean, std = preprocessing(folder) or (IMAGENET_MEAN, IMAGENET_STD)
    make = _maker(kind, content, name)
    cut = CUTS.get(kind.__name__)
    return card_of(name, make, cut, stride, mean=mean, std=std, aside=ASIDE, sides=_sides(content))


def state_dict_of(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, under the names of the network. Raises ``OptionError`` where they are of another one."""
    _, kind = _kind_of(folder, str(folder))
    try:
        network, found = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except Exception as error:  # whatever the package raises for what the files hold
        raise OptionError(f"{folder}: cannot be read by transformers: {' '.join(str(error).split())}") from error
    for what, text in (
        ("missing_keys", "is missing"),
        ("unexpected_keys", "has no place"),
        ("mismatched_keys", "differs"),
    ):
        names = [name for name in map(str, found.get(what, ())) if not name.startswith(ASIDE)]
        if names:
            raise OptionError(f"{folder}: {names[0]} {text} in {kind.__name__}: expected weights of its config.json")
    state: dict[str, Tensor] = network.state_dict()
    return state


def _kind_of(folder: Path, user: str) -> tuple[dict[str, Any], Any]:
    """The content of a folder's ``config.json`` and the class of its network."""
    file = folder / "config.json"
    content = read_json(file)
    transformers = imported("transformers", user)
    if content.get("auto_map"):
        raise OptionError(
            f"{file}: its auto_map names code of the folder, which is not run: expected a model of transformers itself"
        )
    names = content.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise OptionError(f"{file}: architectures is {names!r}: expected a list of one name")
    name = names[0]
    if not name.endswith(ENDING) or not hasattr(transformers, name):
        known = [each for each in dir(transformers) if each.endswith(ENDING) and not each.startswith("Auto")]
        near = difflib.get_close_matches(name, known, 2) or known[:4]
        queries = "UniversalSegmentation" in name or "InstanceSegmentation" in name
        why = "predicts masks by queries, without a map of features for a memory" if queries else "is not known"
        raise OptionError(f"{file}: {name} {why}: expected {' or '.join(near)}")
    return content, getattr(transformers, name)


def _maker(kind: Any, content: dict[str, Any], name: str) -> Callable[[int], nn.Module]:
    def make(num_classes: int) -> nn.Module:
        try:
            config = kind.config_class.from_dict(dict(content))
            config.num_labels = num_classes
            if hasattr(config, "use_auxiliary_head"):
                config.use_auxiliary_head = False  # for a loss of its own
            network: nn.Module = kind(config)
        except Exception as error:  # whatever the package raises for what a file holds
            reason = " ".join(str(error).split())
            raise OptionError(f"--backbone {name}: cannot be made of its config.json: {reason}") from error
        return network

    return make


def _sides(content: dict[str, Any]) -> tuple[int, ...]:
    """The side of frames that positions are embedded for, where there is one."""
    side = content.get("image_size")
    return (side,) if isinstance(side, int) and 0 < side <= 1024 and "patch_size" in content else ()
