"""docs/networks.md: what works with each network, found by running it; ``python -m engine.network_table``.

Networks have random weights and small frames. A cell is "yes", or the reason why not, as a note below the table.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from models.backbone import backbone_card
from models.config import LMANetConfig
from models.inference.fast_copy import fast_copy
from models.inference.int8 import quantize
from models.inference.onnx import empty_memory, export_step, runtime_session
from models.lmanet import LMANet, build_lmanet
from models.warm_start import warm_start
from models.weights.export import export_weights
from models.weights.load import load_weights
from utils.command import OneLineParser
from utils.errors import OptionError, UserError
from utils.files import write_text
from utils.sizes import format_size

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "networks.md"
SIDES = (64, 96)
CLASSES, FRAMES = 5, 3
# Of the step that must lower the loss. In a random MobileOne, whose branches have a batch norm each, gradients of the
# first layers are of several hundred: only the smallest step stays where they hold.
RATES = (1e-4, 1e-6, 1e-8)
BSD, APACHE = "BSD-3-Clause", "Apache-2.0"
# Networks, and the license of the weights that their library offers for the encoder.
NETWORKS = {
    "erf": "of the published file",
    "lraspp_small": BSD,
    "torchvision/lraspp_mobilenet_v3_large": BSD,
    "torchvision/lraspp_mobilenet_v3_large@classifier.scale": BSD,
    "smp/Unet:resnet18": BSD,
    "smp/FPN:tu-mobilenetv3_small_100": APACHE,
    "smp/PSPNet:resnet18": BSD,
    "smp/DeepLabV3Plus:tu-mobilenetv3_large_100": APACHE,
    "smp/UPerNet:mobileone_s0": "Apple's, non-commercial",
    "smp/Segformer:mit_b0": "NVIDIA's, non-commercial",
    "hf/ SegFormer-B0": "NVIDIA's, non-commercial",
    "hf/ MobileNetV2": "as its folder says",
}
# ``config.json`` of folders of transformers, beyond the defaults of their kind.
FOLDERS = {
    "hf/ SegFormer-B0": {"architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer"},
    "hf/ MobileNetV2": {"architectures": ["MobileNetV2ForSemanticSegmentation"], "model_type": "mobilenet_v2"},
}
PREFACE = """\
# What works with each network

Written by `python -m engine.network_table`, which runs each network with random weights on small frames:

- **cut**: channels, stride and side multiple of the memory's level, found by dry runs, behind `@MODULE` where the name
  has one; encoder and decoder return what the whole network returns, bit by bit (of the project's own networks: as
  their cards say)
- **clip**: steps through a clip return the logits of the clip to 1e-5 of the largest
- **train**: one step with a learning rate of 1e-4 lowers the loss (or with the rate that the cell names: first layers
  of a random MobileOne have gradients of several hundred, for which longer steps are too long)
- **warm start**: `--warm-start` sets the memory of the published fusion
- **file**: exported, and read strictly into another network
- **fast**: the fast copy agrees to 1e-3 of the largest logit; how many batch norms it folded, of all
- **amp**, **int8**, **compile**: the stream's step in bfloat16; quantized; as graphs of `torch.compile` without its
  code generation
- **ONNX**: the exported step agrees with `step` to 1e-3 of the largest logit
- **license**: of the weights that the library offers for the encoder; the program fetches none

Consistency, streams, class sets and reports do not depend on the network.
"""

Check = Callable[[LMANet, "_Subject"], str]


@dataclass
class _Subject:
    """A network that is checked: frames of a clip ``1 3 H W``, and the logits of its last one."""

    config: LMANetConfig
    clip: list[torch.Tensor]
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def close(self, found: torch.Tensor, tolerance: float) -> None:
        """Raises ``OptionError`` where logits differ by more than a share of the largest."""
        shown = self.logits[:, :CLASSES]  # what no layer computes is far below
        error = ((found[:, :CLASSES] - shown).abs().max() / shown.abs().max().clamp(min=1)).item()
        if not error <= tolerance:
            raise OptionError(f"differs by {error:.1e} of the largest logit")


def _cut(model: LMANet, subject: _Subject) -> str:
    traits = model.config.traits
    sides = format_size(traits.work_size) if traits.one_size else traits.side_multiple
    return f"{traits.features} @ {traits.stride}, {sides}"


def _steps(model: LMANet, frames: Sequence[torch.Tensor]) -> torch.Tensor:
    memory = None
    with torch.inference_mode():
        for frame in frames:
            logits, memory = model.step(frame, memory)
    return logits


def _clip(model: LMANet, subject: _Subject) -> str:
    with torch.inference_mode():
        found = model(torch.stack(subject.clip, dim=1))[:, 0]
    subject.close(found, 1e-5)
    return "yes"


def _train(model: LMANet, subject: _Subject) -> str:
    losses = []
    for rate in RATES:
        losses = _losses(build_lmanet(model.config).train(), subject, rate)
        if losses[1] < losses[0]:
            return "yes" if rate == RATES[0] else f"yes (rate {rate:.0e})"
    raise OptionError(f"the loss went from {losses[0]:.4f} to {losses[1]:.4f}")


def _losses(model: LMANet, subject: _Subject, rate: float) -> list[float]:
    """The loss of a clip before and after one step of training with a learning rate."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.SGD(parameters, lr=rate), []
    clip = torch.cat([torch.stack(subject.clip, dim=1)] * 2)
    label = torch.zeros(2, *clip.shape[-2:], dtype=torch.long)
    for _ in range(2):
        torch.manual_seed(0)
        loss = F.cross_entropy(model(clip)[:, -1], label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _warm_start(model: LMANet, subject: _Subject) -> str:
    fusion = next(name for name in ("sigmoid-do1", "sigmoid-down1") if name in model.config.traits.fitting_fusions())
    published = build_lmanet(replace(model.config, fusion=fusion))
    warm_start(published, lambda: [torch.stack(subject.clip, dim=1)] * 2)
    return "yes"


def _file(model: LMANet, subject: _Subject) -> str:
    other = build_lmanet(model.config)
    with tempfile.TemporaryDirectory() as folder:
        export_weights(model, Path(folder) / "model.pth")
        load_weights(other, Path(folder) / "model.pth")
    subject.close(_steps(other.eval(), subject.clip), 0.0)
    return "yes"


def _fast(model: LMANet, subject: _Subject) -> str:
    fast = fast_copy(model)
    subject.close(_steps(fast, subject.clip), 1e-3)
    left, norms = (sum(isinstance(m, nn.BatchNorm2d) for m in _halves(each)) for each in (fast, model))
    return f"{norms - left} of {norms}" if norms else "yes"


def _halves(model: LMANet) -> list[nn.Module]:
    return [*model.encoder.modules(), *model.decoder.modules()]


def _amp(model: LMANet, subject: _Subject) -> str:
    with torch.autocast("cpu", torch.bfloat16):
        found = _steps(fast_copy(model), subject.clip)
    subject.close(found.float(), 0.5)
    return "yes"


def _int8(model: LMANet, subject: _Subject) -> str:
    fast = fast_copy(model)
    with torch.inference_mode():
        quantize(fast, subject.clip)
    found = _steps(fast, subject.clip)
    agreeing = (found[:, :CLASSES].argmax(1) == subject.logits[:, :CLASSES].argmax(1)).float().mean().item()
    return f"yes ({agreeing:.0%})"


def _onnx(model: LMANet, subject: _Subject) -> str:
    size = subject.clip[0].shape[-2], subject.clip[0].shape[-1]
    session = runtime_session(export_step(model, size))
    memory = [tensor.numpy() for tensor in empty_memory(model, size)]
    for frame in subject.clip:
        feed = dict(zip(("frame", "keys", "values", "filled"), [frame.numpy(), *memory], strict=True))
        logits, *memory = session.run(None, feed)
    subject.close(torch.from_numpy(logits), 1e-3)
    return "yes"


def _compile(model: LMANet, subject: _Subject) -> str:
    fast = fast_copy(model)
    torch._dynamo.reset()
    for name in ("encoder", "decoder", "fusion"):
        setattr(fast, name, torch.compile(getattr(fast, name), dynamic=False, backend="aot_eager"))
    subject.close(_steps(fast, subject.clip), 1e-3)
    return "yes"


CHECKS: dict[str, Check] = {
    "cut": _cut,
    "clip": _clip,
    "train": _train,
    "warm start": _warm_start,
    "file": _file,
    "fast": _fast,
    "amp": _amp,
    "int8": _int8,
    "ONNX": _onnx,
    "compile": _compile,
}


def row_of(backbone: str) -> dict[str, str]:
    """What each check says of a network; an error says why not, after an exclamation mark."""
    torch.manual_seed(0)
    config = LMANetConfig(backbone=backbone, memory_size=2, corr_size=5, num_classes=CLASSES + 1)
    model = build_lmanet(config).eval()
    size = config.traits.size_above(SIDES)
    subject = _Subject(config, [torch.rand(1, 3, *size) for _ in range(FRAMES)])
    subject.logits = _steps(model, subject.clip)
    found = {}
    for name, check in CHECKS.items():
        try:
            found[name] = check(model, subject)
        except Exception as error:  # whatever a network of others raises is what the table is for
            text = " ".join(str(error).split())
            found[name] = f"!{'' if isinstance(error, UserError) else type(error).__name__ + ': '}{text[:200]}"
    return found


def document(names: Sequence[str]) -> str:
    """The document of some of ``NETWORKS``; a network whose package is not installed says so."""
    notes: list[str] = []
    lines = [f"| network | {' | '.join(CHECKS)} | license |", f"|---|{'---|' * (len(CHECKS) + 1)}"]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            try:
                backbone = _backbone(name, Path(folder))
                backbone_card(backbone)
                row = row_of(backbone)
            except UserError as error:
                row = dict.fromkeys(CHECKS, f"!{error}")
            cells = [_cell(text.replace(folder, "FOLDER"), notes) for text in row.values()]
            lines.append(f"| `{name}` | {' | '.join(cells)} | {NETWORKS[name]} |")
            print(lines[-1], flush=True)
    text = "\n".join([PREFACE, *lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, start=1))])
    return text.rstrip() + "\n"


def _backbone(name: str, folder: Path) -> str:
    if name not in FOLDERS:
        return name
    home = folder / name.rpartition(" ")[2]
    home.mkdir()
    (home / "config.json").write_text(json.dumps(FOLDERS[name]))
    return f"hf/{home}"


def _cell(text: str, notes: list[str]) -> str:
    if not text.startswith("!"):
        return text
    note = text[1:]
    if note not in notes:
        notes.append(note)
    return f"no ({notes.index(note) + 1})"


def main() -> None:
    """Writes the document."""
    parser = OneLineParser(prog="python -m engine.network_table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NETWORK", help="only these, printed and not written (default: all)"
    )
    names = parser.parse_args().names
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        parser.error(f"{unknown[0]} is not in the table: expected some of {', '.join(NETWORKS)}")
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    text = document(names or list(NETWORKS))
    if not names:
        write_text(DOCUMENT, text)


if __name__ == "__main__":
    main()
