"""The command line: every option is there, honoured or refused, and wrong ones end in one line and status 2."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.options.parser import build_parser, parse_options
from main import main

PROJECT = Path(__file__).resolve().parents[3]

PUBLISHED_DEFAULTS = {
    "dataset": "Cityscapes", "model": "lmanet.py", "weights": "trained_models/erfnet_pretrained.pth", "backbone": "erf",
    "num_epochs": 150, "batch_size": 6, "steps_loss": 100, "steps_plot": 50, "epochs_save": 0, "lr_strategy": "pow_09",
    "lr_start": 5e-5, "nodes": 1, "gpus": 1, "nr": 0, "mport": 8888, "port": 8097, "num_workers": 4,
    "win_size": -1, "stm_queue_size": 3, "model_struct": "original", "corr_size": 21, "memory_strategy": "all",
    "iouVal": True, "align_weights": True, "local_correlation": True, "visualize": False, "save_images": False,
    "save_all_vals": False, "resume": False, "loss": False, "training": False, "eval_mode": False,
    "train_encoder": False, "train_decoder": False, "train_erfnet_shallow_dec": False, "encoder_eval_mode": False,
    "decoder_eval_mode": False, "random_crop": False, "iouTrain": False, "use_orig_res": False,
    "learnable_constant": False, "memorize_first": False, "always_decode": False, "shallow_dec": False,
    "backbone_nobn": False, "baseline_mode": False, "baseline_path": None, "fusion_strategy": None, "savedir": None,
}  # fmt: skip

PUBLISHED_COMMANDS = (
    "--eval-mode --weights trained_models/lmanet_erf_best.pth --backbone erf --corr-size 21 --stm-queue-size 4 "
    "--savedir save/eval_lma_erf",
    "--eval-mode --weights trained_models/lmanet_psp101_best.pth --backbone psp101 --corr-size 21 --stm-queue-size 3 "
    "--fusion-strategy sigmoid-down1 --savedir save/eval_lma_psp101",
    "--weights trained_models/erfnet_pretrained.pth --backbone erf --training --gpus 2 --lr-start 2e-4 --lr-strategy "
    "plateau_08 --num-epochs 50 --batch-size 5 --corr-size 21 --stm-queue-size 3 --fusion-strategy sigmoid-do1 "
    "--memory-strategy all --savedir save/training_lma_erf",
    "--weights trained_models/pspnet101/model/train_epoch_200.pth --backbone psp101 --training --gpus 6 --lr-start 2e-4"
    " --lr-strategy plateau_08 --num-epochs 50 --batch-size 1 --corr-size 21 --stm-queue-size 3 --fusion-strategy "
    "sigmoid-down1 --savedir save/training_lma_psp101",
)


@pytest.fixture
def folder_with_weights(tmp_path, monkeypatch):
    """A working directory in which the published weight files exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained_models" / "pspnet101" / "model").mkdir(parents=True)
    for name in ("erfnet_pretrained", "lmanet_erf_best", "lmanet_psp101_best", "pspnet101/model/train_epoch_200"):
        (tmp_path / "trained_models" / f"{name}.pth").touch()
    return tmp_path


def error_of(capsys, *options: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        parse_options([*options, "--savedir", "save/run"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("name", ["accumulate", "seed", "batch-size", "retries", "num-workers"])
def test_counts_that_no_machine_can_mean_are_refused(folder_with_weights, capsys, name):
    assert f"--{name} is {10**20}: expected " in error_of(capsys, "--training", f"--{name}", str(10**20))


def test_every_published_option_has_its_default():
    defaults = {action.dest: action.default for action in build_parser()._actions}
    assert {name: defaults[name] for name in PUBLISHED_DEFAULTS} == PUBLISHED_DEFAULTS


@pytest.mark.parametrize("command", PUBLISHED_COMMANDS)
def test_published_commands_are_understood(folder_with_weights, command):
    options = SimpleNamespace(**parse_options(command.split()).arguments)
    assert options.win_size == options.stm_queue_size + 1
    assert options.fusion_strategy == ("sigmoid-do1" if options.backbone == "erf" else "sigmoid-down1")
    assert options.work_size == ((512, 1024) if options.backbone == "erf" else (1025, 2049))


def test_network_options_reach_the_configuration(folder_with_weights):
    words = (
        "--training --savedir s --stm-queue-size 5 --corr-size 7 --fusion-strategy linear --model-struct aux_mem_loss "
        "--memory-strategy skip_02 --win-size 9 --no-local-correlation --learnable-constant --memorize-first "
        "--no-align-weights --always-decode --shallow-dec --backbone-nobn --attention-backend portable"
    )
    config = parse_options(words.split()).network.config
    assert config.__dict__ == {
        "backbone": "erf", "memory_size": 5, "corr_size": 7, "fusion": "linear", "structure": "aux_mem_loss",
        "memory_strategy": "skip_02", "local": False, "learnable_constant": True, "memorize_first": True,
        "align_weights": False, "always_decode": True, "baseline": False, "shallow_decoder": True, "batch_norm": False,
        "num_classes": 20, "attention_backend": "portable", "mask_border": False,
    }  # fmt: skip
    assert parse_options(["--training", "--savedir", "s", "--mask-border"]).network.config.mask_border


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "no mode is given: expected one of --training, --eval-mode"),
        ("--training --eval-mode", "not allowed with argument"),
        ("--eval-mode --port 0", "--port is 0: expected a port between 1 and 65535"),
        ("--training --port 65536", "--port is 65536"),
        ("--training --steps-plot 0", "--steps-plot is 0: expected 1 or more"),
        ("--training --nr 1", "--nr is 1: expected 0 to 0, as there are --nodes 1"),
        ("--training --nodes 0", "--nodes is 0: expected 1 or more"),
        ("--training --mport 70000", "--mport is 70000: expected a port up to 65535"),
        ("--training --accumulate 0", "--accumulate is 0: expected 1 or more"),
        ("--training --amp float8", "invalid choice: 'float8'"),
        ("--eval-mode --amp", "--amp belongs to --training and --stream"),
        ("--eval-mode --steps-save 5", "--steps-save belongs to --training"),
        ("--training --corr-size 4", "--corr-size is 4: expected an odd number"),
        ("--training --corr-size -1", "--corr-size is -1: expected an odd number"),
        ("--training --stm-queue-size 0", "--stm-queue-size is 0: expected 1 frame or more"),
        ("--training --win-size 1", "--win-size is 1: --memory-strategy all with --stm-queue-size 3 needs 2"),
        ("--training --memory-strategy skip_05", "needs 7 frames or more, for example --win-size 19"),
        ("--training --memory-strategy random --win-size 3", "needs 4 frames or more"),
        ("--training --memory-strategy skip_06", "invalid choice: 'skip_06'"),
        ("--training --fusion-strategy sigmoid-down1", "does not fit --backbone erf: expected one of sigmoid-do1,"),
        ("--training --fusion-strategy sum", "--fusion-strategy sum is not known: expected one of"),
        ("--training --backbone resnet", "--backbone resnet is not known: expected one of erf"),
        ("--training --model-struct original_kv_fusion --memorize-first", "--memorize-first does not go with"),
        ("--training --mask-border --learnable-constant", "--mask-border does not go with --learnable-constant"),
        ("--eval-mode --baseline-mode --learnable-constant", "--baseline-mode has no memory, which --learnable"),
        ("--training --baseline-mode", "has nothing to train: add --train-decoder"),
        ("--training --train-erfnet-shallow-dec", "add --shallow-dec"),
        ("--training --shallow-dec --use-orig-res", "leave one of them out"),
        ("--eval-mode --resume", "--resume belongs to --training"),
        ("--eval-mode --train-encoder", "--train-encoder belongs to --training"),
        ("--eval-mode --iouTrain", "--iouTrain belongs to --training"),
        ("--eval-mode --no-iouVal", "nothing to report"),
        ("--eval-mode --work-size 500x1024", "does not fit --backbone erf: try 496x1024 or 504x1024"),
        ("--eval-mode --work-size 512", "'512' is no size: expected HxW, for example 512x1024"),
        ("--training --random-crop", "--random-crop takes 713x713 of frames that are 512x1024"),
        ("--training --random-crop --work-size 1024x2048", "--random-crop 713x713 does not fit --backbone erf"),
        ("--training --num-epochs 0", "--num-epochs is 0: expected 1 or more"),
        ("--training --batch-size 0", "--batch-size is 0"),
        ("--training --num-workers -1", "--num-workers is -1"),
        ("--training --gpus 0", "--gpus is 0"),
        ("--stream x.mp4 --gpus 2", "--gpus and --nodes belong to --training and --eval-mode"),
        ("--eval-mode --consistency --gpus 2", "--consistency follows videos from frame to frame in one process"),
        ("--training --lr-start 0", "--lr-start is 0.0: expected a rate between 0 and 1"),
        ("--training --lr-start nan", "--lr-start is nan"),
        ("--training --lr-strategy step", "invalid choice: 'step'"),
        ("--training --model erfnet.py", "--model erfnet.py: expected lmanet.py"),
        ("--training --weights missing.pth", "--weights missing.pth: there is no such file"),
        ("--eval-mode --weights none", "nothing to evaluate"),
        ("--training --export-weights out.pth", "--export-weights does not go with --training"),
        ("--eval-mode --baseline-path nowhere", "--baseline-path nowhere: holds no report.json"),
        ("--stream 0 --eval-mode", "not allowed with argument"),
        ("--stream 0 --consistency --work-size 8x8", "frames of 8x8 are too small for: expected a side of 12 or more"),
        ("--stream 0 --every 0", "--every is 0: expected 1 or more"),
        ("--stream 0 --every 2 --memorize-first", "--every 2 does not go with --memorize-first"),
        ("--stream 0 --every 2 --baseline-mode", "--every 2 does not go with --baseline-mode"),
        ("--stream 0 --alpha 2", "--alpha is 2.0: expected a share from 0 to 1"),
        ("--stream 0 --save-video movie", "invalid choice: 'movie'"),
        ("--stream 0 --save-labels colors", "invalid choice: 'colors'"),
        ("--stream 0 --weights none", "nothing to label with"),
        ("--stream 0 --use-orig-res", "--use-orig-res belongs to labeled data"),
        ("--stream 0 --backbones erf", "--backbones belongs to --benchmark backbones: leave it out, or name one by"),
        ("--stream 0 --resume", "--resume belongs to --training"),
        ("--eval-mode --save-video overlay", "--save-video belongs to --stream"),
        ("--eval-mode --overwrite", "--overwrite belongs to --stream"),
        ("--training --every 2", "--every belongs to --stream"),
        ("--eval-mode --no-live", "--live belongs to --stream"),
        ("--eval-mode --compile", "--compile belongs to --stream and --benchmark"),
        ("--training --int8 a.mp4", "--int8 belongs to --stream, --eval-mode and --benchmark stream"),
        ("--stream 0 --int8", "--int8 without frames to be calibrated on: expected a video or a folder"),
        ("--benchmark stream --int8 a.mp4", "--benchmark stream takes random frames: write --int8 alone"),
        ("--stream 0 --int8 a.mp4 --amp", "--int8 does not go with --amp"),
        ("--stream 0 --int8 a.mp4 --compile", "--int8 does not go with --compile"),
        ("--stream 0 --int8 a.mp4 --device cuda", "--int8 is for the CPU and does not go with --device cuda"),
        ("--eval-mode --int8 a.mp4 --gpus 2", "--int8 runs in one process"),
        ("--benchmark speed", "invalid choice: 'speed'"),
        ("--benchmark stream --baseline-mode", "leave --baseline-mode out"),
        ("--training --export-onnx out.onnx", "--export-onnx does not go with --training"),
        ("--training --export-openvino out.xml", "--export-openvino does not go with --training"),
        ("--training --engine openvino", "--engine openvino belongs to --stream, --eval-mode and --benchmark stream"),
        ("--stream a.mp4 --engine onnxruntime --compile", "--engine onnxruntime does not go with --compile"),
        ("--stream a.mp4 --engine openvino --int8 a.mp4", "--engine openvino does not go with --int8"),
        ("--stream a.mp4 --engine onnxruntime --amp", "--engine onnxruntime does not go with --amp bfloat16: take"),
        ("--stream a.mp4 --engine openvino --amp float16", "--engine openvino does not go with --amp float16: take"),
        ("--stream a.mp4 --engine openvino --device cuda", "--engine openvino is for the CPU and does not go with"),
        ("--eval-mode --engine openvino --gpus 2", "--engine openvino runs in one process: leave --gpus and --nodes"),
        ("--export-openvino out", "--export-openvino out: expected a name that ends with .xml"),
        ("--stream 0 --smooth flow --work-size 8x8", "--smooth flow follows pixels by optical flow"),
        ("--eval-mode --smooth flow", "--smooth belongs to --stream and --eval-mode --consistency: add --consistency"),
        ("--training --smooth average", "--smooth belongs to --stream and --eval-mode --consistency: leave it out"),
        ("--stream 0 --smooth flow --smooth-weight 1", "--smooth-weight is 1: expected 0 or more and below 1"),
        ("--stream 0 --smooth flow --smooth-weight auto", "--smooth-weight auto chooses on labeled clips"),
        ("--stream 0 --smooth flow --smooth-weight half", "'half' is neither a number nor auto"),
        ("--stream 0 --smooth-weight 0.5", "--smooth-weight 0.5 belongs to --smooth: add --smooth flow"),
        ("--training --consistency", "--consistency belongs to --stream and --eval-mode"),
        ("--eval-mode --dataset Kitti", "invalid choice: 'Kitti'"),
        ("--eval-mode --device tpu", "invalid choice: 'tpu'"),
        ("--eval-mode --corr-sise 3", "unrecognized arguments: --corr-sise 3"),
        ("--eval-mode --corr-siz 3", "unrecognized arguments: --corr-siz 3"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(folder_with_weights, capsys, options, message):
    assert message in error_of(capsys, *options.split())


def test_savedir_is_required(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_options(["--training"])
    assert exit_.value.code == 2
    assert "--savedir" in capsys.readouterr().err


def test_help_is_quick_and_needs_no_torch():
    check = "import sys, main\ntry: main.main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert all(f"--{name.replace('_', '-')}" in done.stdout for name in PUBLISHED_DEFAULTS)
    # Seconds of the processor, so that a busy machine does not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_a_device_that_is_not_there_is_refused(command, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    assert main([*command("--eval-mode"), "--device", "cuda"]) == 2
    assert "--device cuda: PyTorch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "spins"), [(["--int8", "a.mp4"], "1000"), (["--engine", "openvino"], "1000"), ([], None)], ids=str
)
def test_threads_of_pytorch_sleep_beside_another_runtime(monkeypatch, tmp_path, options, spins):
    monkeypatch.setattr("engine.launch.run", lambda settings: None)
    monkeypatch.setenv("GOMP_SPINCOUNT", "what the test finds is put back")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    for name in ("a.mp4", "a.pth"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    stream = ["--stream", "a.mp4", "--weights", "a.pth", "--savedir", str(tmp_path), "--save-video", "overlay"]
    assert main([*stream, *options]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == spins
