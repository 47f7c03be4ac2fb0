"""Batch norm as the backbones need it."""

from torch import Tensor, nn
from torch.nn import functional as F


class BackboneNorm(nn.BatchNorm2d):
    """Batch norm that can be left out and that also trains where there is a single value a channel.

    With ``applied=False`` it is held, since published files hold it, but not computed. A pooling to 1x1 at batch size 1
    leaves one value per channel, which has no variance: such a call is normalized by the running statistics.
    """

    def __init__(self, channels: int, applied: bool = True, eps: float = 1e-5):
        super().__init__(channels, eps=eps)
        self.applied = applied
        if not applied:
            self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.applied:
            return x
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def after_norm(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What a batch norm does with what it has normalized: nothing, mostly; those of timm end in an activation.

    ``None`` for one that computes what is not known here, so that nothing may take its place.
    """
    if type(norm).forward in (nn.BatchNorm2d.forward, BackboneNorm.forward):
        return nn.Identity()
    if "BatchNormAct2d" in {kind.__name__ for kind in type(norm).__mro__}:
        return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
    return None
