"""Weights for other classes: the classifier alone starts fresh, for every kind of decoder, or the file is refused."""

import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from models import LMANet, LMANetConfig, load_weights
from models.weights.export import options_of, published_state_dict
from models.weights.load import read_weights
from models.weights.saved_options import with_options
from utils.class_set import ClassSet
from utils.errors import WeightsError


def class_set(*names: str) -> ClassSet:
    return ClassSet(names, tuple((number, 0, 0) for number in range(len(names))))


FIVE = class_set("road", "car", "sky", "tree", "person")
OTHER_FIVE = class_set("road", "car", "sky", "tree", "dog")
SEVEN = class_set("water", "boat", "pier", "buoy", "shore", "sky", "bird")
# The network, and the layers that make its logits.
NETWORKS = {
    "ERFNet": ({"baseline": True}, ["decoder.output_conv"]),
    "LMANet-ERFNet": ({}, ["decoder.output_conv"]),
    "PSPNet-101": ({"backbone": "psp101", "baseline": True}, ["decoder.cls.4"]),
    "torchvision": (
        {"backbone": "torchvision/deeplabv3_mobilenet_v3_large", "baseline": True},
        ["decoder.head.4"],
    ),
    "torchvision, two layers": (
        {"backbone": "torchvision/lraspp_mobilenet_v3_large"},
        ["decoder.head.low_classifier", "decoder.head.high_classifier"],
    ),
    "shallow ERFNet": ({"baseline": True, "shallow_decoder": True}, ["decoder.classifier"]),
    "shallow LMANet": ({"shallow_decoder": True}, ["decoder.classifier"]),
    "shallow torchvision": (
        {"backbone": "torchvision/lraspp_mobilenet_v3_large", "shallow_decoder": True},
        ["decoder.classifier"],
    ),
    "mem_only": ({"structure": "mem_only"}, ["decoder.output_conv", "memory_decoder.output_conv"]),
    "aux_mem_loss": ({"structure": "aux_mem_loss"}, ["decoder.output_conv", "memory_decoder.output_conv"]),
    "shallow aux_mem_loss": (
        {"structure": "aux_mem_loss", "shallow_decoder": True},
        ["decoder.classifier", "memory_decoder.classifier"],
    ),
}


class Case(NamedTuple):
    fields: dict[str, object]
    classifier: set[str]  # names of its tensors
    file: dict[str, Tensor]
    described: Mapping[str, Tensor]  # the same with what a file says of its classes


def value_of(name: str) -> float:
    """What the tensor of that name is filled with before anything is loaded; files hold 1 to 2."""
    return 3 + zlib.crc32(name.encode()) % 999 / 999


def fill(model: LMANet, offset: float = 0.0) -> None:
    for name, tensor in model.state_dict().items():
        tensor.fill_(value_of(name) + offset)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request, unset_model) -> Case:
    fields, layers = NETWORKS[request.param]
    source = unset_model(LMANetConfig(num_classes=6, **fields))
    source.classes = FIVE
    fill(source, offset=-2)
    file = published_state_dict(source)
    classifier = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    return Case(fields, classifier, file, with_options(file, options_of(source)))


@pytest.fixture
def network_for(unset_model) -> Callable[[Case, ClassSet], LMANet]:
    """Builds a case's network for some classes."""

    def build(case: Case, classes: ClassSet) -> LMANet:
        model = unset_model(LMANetConfig(num_classes=classes.num_outputs, **case.fields))
        model.classes = classes
        fill(model)
        return model

    return build


def starts_fresh(model: LMANet, source: Mapping[str, Tensor], **options: bool) -> set[str]:
    """Names of the tensors that loading leaves as they were, once all others hold what the file has for them."""
    fresh = set(load_weights(model, source, **options).fresh)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            expected = value_of(name) - (0 if name in fresh else 2)
            assert tensor.flatten()[0].item() == pytest.approx(expected), name
    return fresh


def refusal(model: LMANet, source: Mapping[str, Tensor]) -> str:
    with pytest.raises(WeightsError) as error:
        load_weights(model, source, other_classes=False)
    assert is_untouched(model)
    return str(error.value)


def is_untouched(model: LMANet) -> bool:
    """Whether nothing was loaded yet."""
    return all(x.flatten()[0].item() == pytest.approx(value_of(n)) for n, x in model.named_parameters())


def test_another_number_of_classes(case, network_for):
    shallow = "shallow_decoder" in case.fields
    assert read_weights(case.file).num_classes(case.fields.get("backbone", "erf"), shallow) == 6
    model = network_for(case, SEVEN)
    assert refusal(model, case.file) == "the state dict: its classifier has 6 logits, expected 8"
    assert refusal(model, case.described) == (
        "the state dict: is for 5 classes, among them road, car and 3 more; expected 7, among them water, boat and 5 "
        "more"
    )
    assert starts_fresh(model, case.file) == case.classifier
    assert starts_fresh(model, case.described) == case.classifier


def test_other_names_of_the_same_number(case, network_for):
    model = network_for(case, OTHER_FIVE)
    assert refusal(model, case.described) == (
        "the state dict: is for 5 classes, among them person; expected 5, among them dog"
    )
    assert starts_fresh(model, case.described) == case.classifier
    # A file without names fits by the number; so does one of the same names, whatever their colors and weights.
    assert starts_fresh(model, case.file, other_classes=False) == set()
    model.classes = ClassSet(FIVE.names, tuple((0, number, 0) for number in range(5)), loss_weights=(2.0,) * 5)
    assert starts_fresh(model, case.described, other_classes=False) == set()


def test_an_encoder_alone_has_no_classes(key_list):
    keys = {name: torch.empty(shape, device="meta") for name, shape in key_list("resnet101").items()}
    file = read_weights(keys)
    assert file.num_classes("psp101") is None and file.num_classes("psp101", shallow=True) is None
