"""Arguments of the Python API: checked as those of the command line are, in the same sentences."""

import numpy as np
import pytest
import torch

from engine.options.parser import parse_options
from engine.training.schedule import make_schedule
from models import BackboneTraits, LMANetConfig, VideoSegmenter, build_lmanet, register_backbone
from models.weights.export import published_state_dict
from models.weights.load import read_weights
from utils.devices import usable_device
from utils.errors import OptionError, WeightsError

SMALL = {"memory_size": 1, "corr_size": 3, "num_classes": 3}


@pytest.fixture(scope="module")
def model():
    return build_lmanet(LMANetConfig(**SMALL))


@pytest.fixture(scope="module")
def single():
    """The tensors of a single-frame ERFNet."""
    return published_state_dict(build_lmanet(LMANetConfig(baseline=True, num_classes=3)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"memory_size": "4"}, "memory_size is '4': expected a whole number"),
        ({"corr_size": 5.0}, "corr_size is 5.0: expected a whole number"),
        ({"corr_size": True}, "corr_size is True: expected a whole number"),
        ({"num_classes": None}, "num_classes is None: expected a whole number"),
        ({"num_classes": 1}, "num_classes is 1: expected 2 to 255"),
        ({"num_classes": 256}, "num_classes is 256: expected 2 to 255"),
        ({"baseline": 1}, "baseline is 1: expected True or False"),
        ({"mask_border": "no"}, "mask_border is 'no': expected True or False"),
        ({"backbone": 7}, "backbone is 7: expected a name"),
        ({"fusion": None}, "fusion is None: expected a name"),
        ({"corr_size": 4}, "--corr-size is 4: expected an odd number of 1 or more"),
        ({"backbone": "erfnet"}, "--backbone erfnet is not known"),
    ],
)
def test_a_configuration_says_what_is_wrong(fields, said):
    with pytest.raises(OptionError, match=said):
        LMANetConfig(**{**SMALL, **fields})


def test_numbers_of_numpy_are_numbers():
    config = LMANetConfig(memory_size=np.int64(2), corr_size=np.uint8(3), num_classes=np.int32(3))
    assert [type(each) for each in (config.memory_size, config.corr_size, config.num_classes)] == [int, int, int]


@pytest.mark.parametrize("backbone, size", [("erf", (60, 128)), ("erf", (64, 130)), ("psp101", (64, 128))])
def test_sizes_that_do_not_fit_are_refused_in_the_words_of_the_command_line(backbone, size, tmp_path, capsys):
    config = LMANetConfig(backbone=backbone, num_classes=20)
    with pytest.raises(OptionError) as here:
        config.check_work_size(size)
    words = f"--benchmark stream --backbone {backbone} --work-size {size[0]}x{size[1]} --savedir {tmp_path}"
    with pytest.raises(SystemExit):
        parse_options(words.split())
    said = str(here.value).removeprefix("work_size ")
    assert f"main.py: error: --work-size {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"work_size": (65, 128)}, "work_size 65x128 does not fit --backbone erf: try 64x128 or 72x128"),
        ({"work_size": 512}, "work_size is 512: expected a height and a width"),
        ({"work_size": (64.0, 128)}, r"work_size is \(64.0, 128\)"),
        ({"work_size": (64, 0)}, r"work_size is \(64, 0\)"),
        ({"work_size": ()}, r"work_size is \(\): expected a height and a width"),
        ({"every": 0}, "every is 0: expected 1 or more"),
        ({"every": 1.5}, "every is 1.5: expected 1 or more"),
        ({"every": None}, "every is None: expected 1 or more"),
        ({"device": "gpu"}, r"device gpu is not known: expected one of auto, .*cpu"),
        ({"device": 1.5}, "device 1.5 is not known"),
        ({"memory_size": 7, "backbone": "erf"}, "memory_size=7, backbone='erf': the network that is given has fields"),
    ],
)
def test_a_segmenter_says_what_is_wrong(model, arguments, said):
    with pytest.raises(OptionError, match=said):
        VideoSegmenter(model, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is one")
def test_a_device_that_is_not_here_is_said(model):
    for name in ("cuda", "cuda:1", torch.device("cuda")):
        with pytest.raises(OptionError, match=r"device cuda\S*: PyTorch \S+ finds none here: expected one of auto, "):
            VideoSegmenter(model, device=name)
    assert usable_device("auto").type in ("cpu", "mps")


@pytest.mark.parametrize("weights", [3, None, ["erfnet.pth"]])
def test_weights_of_another_type_are_said(weights):
    for take in (VideoSegmenter, read_weights):
        with pytest.raises(WeightsError, match=r"weights is .*: expected a file or its state dict"):
            take(weights)


@pytest.mark.parametrize("fields", [{"baseline": True}, {"memorize_first": True}])
def test_every_is_for_a_memory(fields, single):
    network = build_lmanet(LMANetConfig(**{**SMALL, **fields}))
    with pytest.raises(OptionError, match=rf"every=2 does not go with {next(iter(fields))}=True"):
        VideoSegmenter(network, work_size=(64, 128), every=2)


@pytest.mark.parametrize("fields", [{"baseline": True, "num_classes": 3}, {"num_classes": 3}])
def test_an_encoders_file_is_refused(fields):
    """The published one of ERFNet's encoder, which has a classifier of its own for the shallow decoder."""
    encoder = published_state_dict(build_lmanet(LMANetConfig(baseline=True, shallow_decoder=True, num_classes=3)))
    with pytest.raises(WeightsError, match="those of ERFNet without this decoder, which would be untrained"):
        VideoSegmenter(encoder, **fields)
    shallow = VideoSegmenter(encoder, baseline=True, shallow_decoder=True, work_size=(64, 128))
    assert shallow.push(np.zeros((64, 128, 3), np.uint8)).shape == (64, 128)


def test_a_file_without_the_shallow_decoder_is_refused(single):
    with pytest.raises(WeightsError, match=r"without this decoder, which would be untrained: .* with shallow_decoder"):
        VideoSegmenter(single, baseline=True, shallow_decoder=True, num_classes=3)


def test_a_whole_single_frame_network_is_taken(single):
    labels = VideoSegmenter(single, baseline=True, work_size=(64, 128)).push(np.zeros((64, 128, 3), np.uint8))
    assert labels.shape == (64, 128)


@pytest.mark.parametrize("config", [None, {"backbone": "erf"}])
def test_a_network_is_made_of_a_configuration(config):
    with pytest.raises(OptionError, match="expected an LMANetConfig"):
        build_lmanet(config)
    with pytest.raises(OptionError, match="work_size 63x128 does not fit"):
        build_lmanet(LMANetConfig(**SMALL), work_size=(63, 128))


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (torch.rand(3, 32, 64), r"has shape \(3, 32, 64\): expected B"),
        (torch.rand(1, 1, 32, 64), r"has shape \(1, 1, 32, 64\)"),
        (torch.rand(0, 3, 32, 64), r"has shape \(0, 3, 32, 64\)"),
        (torch.zeros(1, 3, 32, 64, dtype=torch.uint8), "is of torch.uint8: expected normalized frames"),
        (np.zeros((1, 3, 32, 64), np.float32), "is of type ndarray: expected a tensor B"),
        (torch.rand(1, 3, 0, 64), "height is 0: erf takes 8"),
    ],
)
def test_a_network_says_what_is_wrong_with_frames(model, frames, said):
    with pytest.raises(ValueError, match=said):
        model.step(frames)
    if frames.ndim == 4:
        with pytest.raises(ValueError, match=said.replace("(0, 3", "(0, 1, 3").replace("(1, 1, 32", "(1, 1, 1, 32")):
            model(frames[:, None])


@pytest.mark.parametrize(
    "image",
    [None, np.zeros((32, 64, 3), np.uint8), torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 3, 32, 64)],
)
def test_a_segmenter_steps_by_prepared_frames(model, image):
    with pytest.raises(ValueError, match=r"image is .*: expected what prepare returns, uint8 \(1, 3, 32, 64\)"):
        VideoSegmenter(model, work_size=(32, 64)).step(image)


@pytest.mark.parametrize(
    ("traits", "said"),
    [
        ({"features": 0}, "features is 0: expected a whole number of 1 or more"),
        ({"features": "32"}, "features is '32'"),
        ({"stride": 0.5}, "stride is 0.5"),
        ({"skip_channels": -1}, "skip_channels is -1: expected a whole number of 0 or more"),
        ({"work_size": (64, 128, 3)}, r"work_size is \(64, 128, 3\): expected a height and a width"),
        ({"work_size": (65, 128), "side_multiple": 8}, r"work_size is \(65, 128\): .* multiples of 8 plus 0"),
    ],
)
def test_traits_say_what_is_wrong(traits, said):
    with pytest.raises(OptionError, match=said):
        BackboneTraits(**{"features": 32, "stride": 4, "work_size": (64, 128), **traits})


@pytest.mark.parametrize(
    ("name", "traits", "maker", "said"),
    [
        (3, "traits", len, "a backbone is called 3"),
        ("other", "traits", len, "backbone other has the traits 'traits': expected BackboneTraits"),
        ("other", BackboneTraits(32, 4, (64, 128)), 5, "backbone other has the maker 5"),
        ("other", BackboneTraits(32, 4, (64, 128)), "module", "backbone other has the maker 'module'"),
    ],
)
def test_a_backbone_says_what_is_wrong(name, traits, maker, said):
    with pytest.raises(OptionError, match=said):
        register_backbone(name, traits, maker)


def test_a_schedule_says_what_is_wrong(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with pytest.raises(OptionError, match="--lr-strategy poly is not known: expected one of plateau_03, "):
        make_schedule("poly", optimizer, 3)
    for epochs in (0, "3"):
        with pytest.raises(OptionError, match=r"--num-epochs is .*: expected 1 or more"):
            make_schedule("pow_09", optimizer, epochs)
