"""What a weight file says of its network: carried under the published names, read back, contradicted, damaged."""

from collections import OrderedDict

import numpy as np
import pytest
import torch

from models import LMANetConfig, VideoSegmenter, build_lmanet, export_weights, load_weights
from models.weights.export import options_of, published_state_dict
from models.weights.load import read_weights
from models.weights.saved_options import ATTRIBUTE, VERSION, SavedOptions, with_options
from utils.class_set import ClassSet
from utils.errors import WeightsError

SIZE = (32, 64)
FIVE = ClassSet(("road", "car", "sky", "tree", "person"), tuple((i, 0, 0) for i in range(5)), file_ids=(3, 1, 4, 9, 5))
NETWORK = {"corr_size": 5, "fusion": "linear", "mask_border": True, "memory_size": 2}
CONTENT = {
    "options_version": VERSION,
    "network": {"backbone": "erf", "corr_size": 5, "baseline": False, "num_classes": 6},
    "classes": {"names": ["road"], "colors": [[1, 2, 3]]},
    "work_size": [32, 64],
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_lmanet(LMANetConfig(num_classes=6, **NETWORK), FIVE, SIZE).eval()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "five.pth"
    assert export_weights(model, path) == "LMANet-ERFNet"
    return path


def tensors_with(content: object) -> OrderedDict:
    tensors = OrderedDict({"module.encoder.layers.0.conv.weight": torch.zeros(1)})
    setattr(tensors, ATTRIBUTE, content)
    return tensors


def test_another_reader_sees_the_published_names_and_tensors_alone(file, model):
    content = torch.load(file, weights_only=True)
    expected = published_state_dict(model)
    assert list(content) == list(expected) and len(content) == 364
    assert all(name.startswith("module.") for name in content)
    assert all(torch.equal(content[name], tensor) for name, tensor in expected.items())
    own = build_lmanet(LMANetConfig(num_classes=6, **NETWORK))
    assert load_weights(own, dict(content)).fresh == ()


def test_options_and_classes_are_read_back(file):
    options = read_weights(file).options
    assert options == SavedOptions(options.network, FIVE, SIZE)
    assert options.network == {
        "backbone": "erf",
        "memory_size": 2,
        "corr_size": 5,
        "fusion": "linear",
        "structure": "original",
        "memory_strategy": "all",
        "local": True,
        "learnable_constant": False,
        "mask_border": True,
        "memorize_first": False,
        "align_weights": True,
        "always_decode": False,
        "baseline": False,
        "shallow_decoder": False,
        "batch_norm": True,
        "num_classes": 6,
    }


def test_a_file_is_enough_for_a_segmenter(file, model):
    segmenter, expected = VideoSegmenter(file), VideoSegmenter(model)
    assert segmenter.model.config == model.config
    assert (segmenter.classes, segmenter.work_size) == (FIVE, SIZE)
    for frame in np.random.RandomState(0).randint(0, 256, (3, *SIZE, 3)).astype(np.uint8):
        assert np.array_equal(segmenter.push(frame), expected.push(frame))


def test_the_memory_may_have_another_size(file):
    assert VideoSegmenter(file, memory_size=4).model.config.memory_size == 4
    assert VideoSegmenter(file, memory_strategy="skip_01").model.config.memory_strategy == "skip_01"


@pytest.mark.parametrize(
    ("field", "given", "found"),
    [
        ("corr_size", 7, 5),
        ("fusion", "sigmoid-do1", "linear"),
        ("mask_border", False, True),
        ("structure", "aux_mem_loss", "original"),
        ("learnable_constant", True, False),
        ("memorize_first", True, False),
        ("local", False, True),
        ("backbone", "psp101", "erf"),
        ("batch_norm", False, True),
        ("shallow_decoder", True, False),
        ("num_classes", 20, 6),
    ],
)
def test_arguments_that_contradict_are_refused(file, field, given, found):
    with pytest.raises(WeightsError) as error:
        VideoSegmenter(file, **{field: given})
    expected = f"{field}={given!r} contradicts {file}, whose network has {field}={found!r}: leave it out"
    assert str(error.value) == expected


def test_arguments_that_repeat_the_file_are_taken(file, model):
    assert VideoSegmenter(file, backbone="erf", corr_size=5, num_classes=6).model.config == model.config


def test_a_single_frame_file_says_that_it_holds_no_memory(tmp_path):
    torch.manual_seed(1)
    single = build_lmanet(LMANetConfig(num_classes=6, baseline=True), FIVE)
    assert export_weights(single, tmp_path / "single.pth") == "ERFNet"
    options = read_weights(tmp_path / "single.pth").options
    assert (options.holds_memory, options.work_size) == (False, None)
    segmenter = VideoSegmenter(tmp_path / "single.pth")
    assert segmenter.model.config.baseline and segmenter.work_size == (512, 1024)
    with pytest.raises(WeightsError, match="the weights are those of ERFNet: the memory would be untrained"):
        VideoSegmenter(tmp_path / "single.pth", baseline=False)


def test_the_single_frame_network_of_a_video_file(file):
    segmenter = VideoSegmenter(file, baseline=True)
    assert segmenter.model.config.baseline and segmenter.classes == FIVE


def test_files_without_options_say_nothing(model):
    assert read_weights(published_state_dict(model)).options is None
    segmenter = VideoSegmenter(published_state_dict(model), **NETWORK)
    assert (segmenter.model.config, segmenter.classes) == (model.config, None)


def test_a_checkpoint_says_it_under_keys_of_its_own(model):
    content = {"state_dict": model.state_dict(), "epoch": 3, **options_of(model).content()}
    options = read_weights(content).options
    assert (options.classes, options.work_size, options.network["corr_size"]) == (FIVE, SIZE, 5)


def test_a_newer_version_is_refused():
    with pytest.raises(WeightsError) as error:
        read_weights(tensors_with({"options_version": 2, "anything": 3}))
    assert str(error.value) == (
        "the state dict: its options are of version 2, this program reads up to 1: take a newer program"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("options", "its options cannot be read"),
        ({"network": "erf"}, "its options cannot be read"),
        ({"network": {"corr_size": "5"}}, "(corr_size is '5')"),
        ({"network": {"corr_size": True}}, "(corr_size is True)"),
        ({"network": {"corr_size": 5.0}}, "(corr_size is 5.0)"),
        ({"network": {"mask_border": 1}}, "(mask_border is 1)"),
        ({"network": {"num_classes": None}}, "(num_classes is None)"),
        ({"network": {"window": 5}}, "(window is 5)"),
        ({"classes": 5}, "a class set cannot be read"),
        ({"classes": {"names": ["road"]}}, "a class set cannot be read"),
        ({"classes": {"names": ["road", "road"], "colors": [[1, 2, 3], [4, 5, 6]]}}, "have the same name (road)"),
        ({"work_size": 32}, "its options cannot be read"),
        ({"work_size": [32]}, "its options cannot be read"),
        ({"work_size": ["a", "b"]}, "its options cannot be read"),
        ({"work_size": [0, 64]}, "(work_size is [0, 64])"),
        ({"options_version": "2"}, "(options_version is '2')"),
        ({"options_version": 0}, "(options_version is 0)"),
        ({"options_version": None}, "(options_version is None)"),
    ],
    ids=str,
)
def test_damaged_options_are_refused(change, words):
    content = CONTENT | change if isinstance(change, dict) else change
    with pytest.raises(WeightsError) as error:
        read_weights(tensors_with(content))
    text = str(error.value)
    assert text.startswith("the state dict: its options cannot be read (") and words in text
    assert text.endswith("): write the file again") and "\n" not in text


def test_undamaged_options_are_read():
    assert read_weights(tensors_with(CONTENT)).options.work_size == (32, 64)
    without_network = {name: value for name, value in CONTENT.items() if name != "network"}
    with pytest.raises(WeightsError, match="its options cannot be read"):
        read_weights(tensors_with(without_network))


def test_options_stay_when_tensors_are_written_again(file, model, tmp_path):
    """A file that is only read and written again says what it said."""
    again = build_lmanet(model.config, FIVE, SIZE)
    load_weights(again, file)
    export_weights(again, tmp_path / "again.pth")
    assert read_weights(tmp_path / "again.pth").options == read_weights(file).options
    described = with_options({"a": torch.zeros(1)}, options_of(again))
    assert read_weights(described).options == read_weights(file).options


def test_a_file_written_without_its_fresh_memory_is_a_single_frame_one(model, tmp_path):
    torch.manual_seed(1)
    single = build_lmanet(LMANetConfig(num_classes=6, baseline=True), FIVE)
    video = build_lmanet(model.config, FIVE)
    load_weights(video, published_state_dict(single))
    assert export_weights(video, tmp_path / "untrained.pth", trained=False) == "ERFNet"
    assert not read_weights(tmp_path / "untrained.pth").options.holds_memory
    export_weights(video, tmp_path / "trained.pth")
    assert read_weights(tmp_path / "trained.pth").options.holds_memory
