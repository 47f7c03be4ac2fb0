#!/usr/bin/env python3
"""LMANet: video semantic segmentation with a local memory attention (Paul et al., IROS 2021).

Evaluate published weights on Cityscapes:
    python main.py --eval-mode --weights trained_models/lmanet_erf_best.pth --backbone erf --corr-size 21 \
        --stm-queue-size 4 --savedir save/eval_lma_erf
Train, starting from the single-frame network:
    python main.py --training --weights trained_models/erfnet_pretrained.pth --backbone erf --lr-start 2e-4 \
        --lr-strategy plateau_08 --num-epochs 50 --batch-size 5 --savedir save/training_lma_erf
Resume a training that was stopped: the same command with --resume.
On two GPUs: the same command with --gpus 2, or torchrun --nproc-per-node 2 main.py and the same options.
Label a video, a folder of frames or a camera, frame by frame:
    python main.py --stream drive.mp4 --weights trained_models/lmanet_erf_best.pth --stm-queue-size 4 \
        --save-video overlay --savedir save/drive
The single-frame network alone: --baseline-mode.
Without any data set: --dataset Synthetic.
"""

import sys
from collections.abc import Sequence

from utils.command import EXPECTED_ERRORS, exit_status, last_line, run_program
from utils.waiting_threads import let_threads_sleep


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status.

    0 is success, 1 incomplete work or a failed process of several, 2 wrong input, 75 the loss of another process, 130
    Ctrl-C, 143 SIGTERM.
    """
    # Here, when Ctrl-C is answered already.
    from engine import processes
    from engine.options.parser import parse_options

    arguments = sys.argv[1:] if argv is None else argv
    settings = parse_options(arguments)
    if settings.stream.is_for_cpu:
        let_threads_sleep()  # before torch is imported
    try:
        if processes.wants_several(settings.processes):
            return processes.run_several(settings.processes, arguments, settings.savedir if settings.training else None)
        # As it imports torch: --help and wrong options are answered without it.
        from engine.launch import run

        run(settings)
    except EXPECTED_ERRORS as error:
        processes.tell_end(error, last_line(error, "main.py"))
        return exit_status(error)
    return 0


if __name__ == "__main__":
    run_program(main)
