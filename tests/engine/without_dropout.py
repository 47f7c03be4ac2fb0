"""``main.py`` without dropout, whose random numbers are each process's own: for comparing numbers of processes.

With ``DOUBLE`` in the environment all is computed in float64: in float32 the gradients of a fresh network are mostly
rounding, of which Adam makes whole steps.
"""

import os
import sys

import torch
from torch.nn import functional as F


def main() -> int:
    F.dropout2d = lambda x, *args, **kwargs: x
    import main as program
    from models.lmanet import LMANet
    from models.losses import WeightedCrossEntropy

    if os.environ.get("DOUBLE"):
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
        for kind in (LMANet, WeightedCrossEntropy):
            kind.__init__ = _in_double(kind.__init__)
    return program.main()


def _in_double(build):
    def build_in_double(self, *args):
        build(self, *args)
        self.double()

    return build_in_double


if __name__ == "__main__":
    sys.exit(main())
