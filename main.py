#!/usr/bin/env python3
"""LMANet: video semantic segmentation with a local memory attention (Paul et al., IROS 2021).

Evaluate published weights on Cityscapes:
    python main.py --eval-mode --weights trained_models/lmanet_erf_best.pth --backbone erf --corr-size 21 \
        --stm-queue-size 4 --savedir save/eval_lma_erf
Train, starting from the single-frame network:
    python main.py --training --weights trained_models/erfnet_pretrained.pth --backbone erf --lr-start 2e-4 \
        --lr-strategy plateau_08 --num-epochs 50 --batch-size 5 --savedir save/training_lma_erf
Go on with a training that was stopped: the same command with --resume.
The single-frame network alone: --baseline-mode.
Without any data set: --dataset Synthetic.
"""

import signal
import sys
from collections.abc import Sequence

from engine.options import parse_options
from utils.errors import UserError

EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    options = parse_options(argv)
    try:
        # Here and not above, so that --help and wrong options are answered at once: this imports torch.
        from engine.launch import run

        run(options)
    except UserError as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        resume = f"; go on with --resume --savedir {options.savedir}" if options.training else ""
        print(f"main.py: stopped by Ctrl-C{resume}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
