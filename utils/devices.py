"""Devices by name: which PyTorch finds here."""

import torch

from utils.errors import OptionError


def usable_device(name: str | torch.device, option: str = "device") -> torch.device:
    """The device of that name; ``auto`` is the first available of CUDA, MPS, CPU.

    Raises ``OptionError`` naming ``option`` where it is unknown or not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kinds = [kind for kind, is_available in available.items() if is_available]
    if name == "auto":
        return torch.device(kinds[0])
    expected = f"expected one of auto, {', '.join(kinds)}"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"{option} {name} is not known: {expected}") from error
    if not available.get(device.type, device.type == "meta"):
        raise OptionError(f"{option} {name}: PyTorch {torch.__version__} finds none here: {expected}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"{option} {name}: expected cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return device
