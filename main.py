#!/usr/bin/env python3
"""LMANet: video semantic segmentation with a local memory attention (Paul et al., IROS 2021).

Evaluate published weights on Cityscapes:
    python main.py --eval-mode --weights trained_models/lmanet_erf_best.pth --backbone erf --corr-size 21 \
        --stm-queue-size 4 --savedir save/eval_lma_erf
Train, starting from the single-frame network:
    python main.py --training --weights trained_models/erfnet_pretrained.pth --backbone erf --lr-start 2e-4 \
        --lr-strategy plateau_08 --num-epochs 50 --batch-size 5 --savedir save/training_lma_erf
Go on with a training that was stopped: the same command with --resume.
Label a video, a folder of frames or a camera, frame by frame:
    python main.py --stream drive.mp4 --weights trained_models/lmanet_erf_best.pth --stm-queue-size 4 \
        --save-video overlay --savedir save/drive
The single-frame network alone: --baseline-mode.
Without any data set: --dataset Synthetic.
"""

import signal
import sys
from collections.abc import Sequence

from engine.options import parse_options
from utils.errors import IncompleteError, UserError

EXIT_INCOMPLETE = 1
EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the exit status: 0, 1 for work half done, 2 for wrong input, 130 for Ctrl-C."""
    options = parse_options(argv)
    try:
        # Here and not above, so that --help and wrong options are answered at once: this imports torch.
        from engine.launch import run

        run(options)
    except IncompleteError as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return EXIT_INCOMPLETE
    except UserError as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        hint = f"; go on with --resume --savedir {options.savedir}" if options.training else ""
        hint = f"; the frames so far are complete in {options.savedir}" if options.stream else hint
        print(f"main.py: stopped by Ctrl-C{hint}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
