"""Experiments: what a plan becomes, that it goes on where it was stopped, and the figures of its tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import datasets.synthetic.__main__ as synthetic
from datasets.synthetic.disk import write_dataset
from datasets.synthetic.motion import median_motion
from datasets.synthetic.options import StreetOptions
from engine import pseudo_labels
from engine.experiments.__main__ import main
from engine.experiments.figure import _gains_along
from engine.experiments.plan import names, read_plan
from engine.experiments.results import (
    Result,
    best_control,
    csv_text,
    gains,
    markdown,
    mean_and_deviation,
    positions,
    read_results,
)
from engine.experiments.runner import PROJECT, Runner, Step, chains, data_steps
from engine.options.parser import build_parser
from utils.errors import IncompleteError, OptionError

TINY = """
question = "Is anything learned?"
seeds = [3, 4]
options = "--dataset Synthetic --num-workers 0"
reference = "single"
[data]
clips = "datasets.synthetic --size 32x64 --train-clips 2 --val-clips 1 --length 4"
[arms.single]
data = "clips"
network = "--baseline-mode --win-size 3"
train = "--train-encoder --train-decoder --weights none --num-epochs 1 --batch-size 2"
evaluate = "--consistency"
[arms."T = {}"]
each = [1, 2]
data = "clips"
start = "single"
network = "--stm-queue-size {} --corr-size 3 --win-size 3"
train = "--warm-start 1 --num-epochs 1 --batch-size 2"
[arms."another clip"]
data = "clips"
start = "T = 2"
network = "--stm-queue-size 2 --corr-size 3 --win-size 3"
evaluate = "--control repeated-frame"
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_arms_seeds_and_weights_become_commands(tiny, tmp_path):
    plan = read_plan(str(tiny))
    assert [arm.name for arm in plan.arms] == ["single", "T = 1", "T = 2", "another clip"]
    found = {(chain.arm.name, chain.seed): chain for chain in chains(plan, tmp_path)}
    # What waits for nothing comes first.
    assert list(found) == [
        ("single", 3), ("single", 4),
        ("T = 1", 3), ("T = 2", 3), ("T = 1", 4), ("T = 2", 4),
        ("another clip", 3), ("another clip", 4),
    ]  # fmt: skip
    train, evaluation = found["T = 2", 4].steps
    assert train.text.startswith("python main.py --training --dataset Synthetic --num-workers 0 --data-root ")
    assert f"--weights {tmp_path}/single/seed4/train/checkpoint.pth.tar --seed 4 " in train.text
    assert "--stm-queue-size 2 " in train.text and "--stm-queue-size 2 " in evaluation.text
    assert f"--weights {tmp_path}/T___2/seed4/train/checkpoint.pth.tar " in evaluation.text
    (alone,) = found["another clip", 3].steps
    assert f"--weights {tmp_path}/T___2/seed3/train/checkpoint.pth.tar " in alone.text


def test_the_best_epoch_is_scored_where_held_out_clips_choose_it(tiny, tmp_path):
    text = TINY.replace('train = "--warm-start 1', 'score = "best"\ntrain = "--hold-out 0.5 --warm-start 1')
    tiny.write_text(text)
    found = {(chain.arm.name, chain.seed): chain.steps for chain in chains(read_plan(str(tiny)), tmp_path)}
    best = f"--weights {tmp_path}/T___2/seed4/train/model_best.pth "
    train, evaluation = found["T = 2", 4]
    assert best in evaluation.text and evaluation.inputs["weights"] == train
    assert best in found["another clip", 4][0].text
    assert "single/seed4/train/checkpoint.pth.tar" in train.text and "checkpoint" in found["single", 4][1].text


@pytest.mark.parametrize(
    ("score", "said"), [('"best"', "expected --hold-out in its train"), ('"first"', "expected best or last")]
)
def test_an_epoch_that_the_evaluation_s_clips_would_choose_is_not_scored(tiny, score, said):
    tiny.write_text(TINY.replace('train = "--warm-start 1', f'score = {score}\ntrain = "--warm-start 1'))
    with pytest.raises(OptionError, match=said):
        read_plan(str(tiny))


def test_each_reference_gets_both_simple_controls(tiny, tmp_path):
    tiny.write_text(TINY.replace("[data]", "simple_controls = true\n[data]", 1))
    plan = read_plan(str(tiny))
    controls = ["single, averaged", "single, averaged along the flow"]
    assert [arm.name for arm in plan.arms] == ["single", *controls, "T = 1", "T = 2", "another clip"]
    assert plan.controls_of("T = 1") == ["single", *controls]
    assert plan.controls_of("single") == plan.controls_of(controls[0]) == []
    found = {(chain.arm.name, chain.seed): chain.steps for chain in chains(plan, tmp_path)}
    for name, kind in zip(controls, ("average", "flow"), strict=True):
        (evaluation,) = found[name, 4]  # of the trained reference's weights, with a weight that training clips choose
        assert f"--weights {tmp_path}/single/seed4/train/checkpoint.pth.tar " in evaluation.text
        assert f"--baseline-mode --win-size 3 --consistency --smooth {kind} --smooth-weight auto" in evaluation.text


def test_clips_that_are_changed_are_no_video_to_be_smoothed(tiny):
    text = TINY.replace("[data]", "simple_controls = true\n[data]", 1)
    tiny.write_text(text.replace('evaluate = "--consistency"', 'evaluate = "--control other-labels"'))
    assert [arm.name for arm in read_plan(str(tiny)).arms] == ["single", "T = 1", "T = 2", "another clip"]


@pytest.mark.parametrize("name", names())
def test_every_plan_that_comes_along_has_simple_controls(name):
    plan = read_plan(name)
    for arm in plan.arms:
        reference = plan.arm(arm.reference or "")
        if reference is not None and reference != arm and "--control" not in (*reference.network, *reference.evaluate):
            assert len(plan.controls_of(arm.name)) == 3


def test_gains_over_the_best_control_by_hand(tiny):
    tiny.write_text(TINY.replace("[data]", "simple_controls = true\n[data]", 1))
    plan = read_plan(str(tiny))
    values = {"single": (0.5, 0.6), "single, averaged": (0.56, 0.58), "single, averaged along the flow": (0.5, 0.5),
              "T = 1": (0.6, 0.62), "T = 2": (0.55, 0.59)}  # fmt: skip
    results = [
        Result(arm, seed, {"mIoU": value}, {"road": value})
        for arm, pair in values.items()
        for seed, value in zip((3, 4), pair, strict=True)
    ]
    assert best_control(plan, results, "T = 1", "mIoU") == "single, averaged"  # 0.57 in the mean, the reference 0.55
    table = markdown(plan, results, "", {})
    head, rows = table.splitlines()[6], table.splitlines()
    assert head.endswith("| gain in mIoU | in each seed | over the best control | in each seed |")
    (row,) = [row for row in rows if row.startswith("| T = 1 |")][:1]
    assert "| +6.00 ± 5.66 over single | +10.00, +2.00 | +4.00 ± 0.00 over single, averaged | +4.00, +4.00 |" in row
    only = [result for result in results if result.arm in ("single", "T = 1")]
    assert best_control(plan, only, "T = 1", "mIoU") is None
    assert "over the best control" not in markdown(plan, only, "", {})


def test_a_smoothed_arm_is_scored_by_its_smoothed_labels(tiny, tmp_path):
    tiny.write_text(TINY.replace("[data]", "simple_controls = true\n[data]", 1))
    (chain,) = [each for each in chains(read_plan(str(tiny)), tmp_path) if each.arm.smooths and each.seed == 3][:1]
    scores = {"mean_iou": 0.7, "pixel_accuracy": 0.9, "iou": {"road": 0.7}}
    names = ("single_frame", "single_frame_smoothed")
    consistency = {
        "smoothing": {"kind": "average", "weight": 0.5},
        "tc": dict(zip(names, (0.5, 0.8), strict=True)),
        "mvc": {name: {"mVC8": 0.1 * number} for number, name in enumerate(names)},
        "scores": {"single_frame": {}, "single_frame_smoothed": scores},
    }
    report = {"mean_iou": 0.6, "pixel_accuracy": 0.8, "iou": {"road": 0.6}, "consistency": consistency}
    chain.report.parent.mkdir(parents=True)
    chain.report.write_text(json.dumps(report))
    (result,) = read_results([chain])
    assert (result.figures["mIoU"], result.figures["TC"], result.figures["mVC8"]) == (0.7, 0.8, 0.1)
    assert result.iou == {"road": 0.7}


@pytest.mark.parametrize("name", names())
def test_the_commands_of_the_plans_that_come_along_are_understood(name, tmp_path):
    plan = read_plan(name)
    assert plan.seeds and len(plan.seeds) == len(set(plan.seeds))
    for chain in chains(plan, tmp_path):
        for step in chain.steps:
            assert step.command[0] == "main.py"
            build_parser().parse_args(step.command[1:])
    parsers = {"datasets.synthetic": synthetic._parser, "engine.pseudo_labels": pseudo_labels._parser}
    for step in data_steps(plan, tmp_path):
        assert step.command[0] == "-m"
        parsers[step.command[1]]().parse_args(step.command[2:])


def test_an_experiment_runs_and_the_second_start_does_nothing(tiny, tmp_path, capsys):
    head = TINY.partition('[arms."another clip"]')[0]
    tiny.write_text(head.replace("seeds = [3, 4]", "seeds = [4]").replace("each = [1, 2]", "each = [2]"))
    arguments = [str(tiny), "--savedir", str(tmp_path / "run"), "--jobs", "2"]
    assert main(arguments) == 0
    table = (tmp_path / "run/table.md").read_text()
    assert "| T = 2 | 1 |" in table and "Not yet run" not in table
    assert (tmp_path / "run/figure.png").read_bytes().startswith(b"\x89PNG")
    assert "single,4,TC," in (tmp_path / "run/results.csv").read_text()
    assert len((tmp_path / "run/commands.txt").read_text().splitlines()) == 1 + 2 * 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("report.json")}
    capsys.readouterr()
    assert main(arguments) == 0
    assert table in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("report.json")} == before


@pytest.mark.slow
def test_what_another_experiment_has_made_in_the_same_way_is_copied(tiny, tmp_path, capsys):
    head = TINY.partition('[arms."T = {}"]')[0].replace("seeds = [3, 4]", "seeds = [4]")
    tiny.write_text(head)
    assert main([str(tiny), "--savedir", str(tmp_path / "runs/first")]) == 0
    # Other names of arms and data, options in another order and a default spelt out: the same.
    second = head.replace('data = "clips"', 'data = "street"').replace("clips = ", "street = ")
    second = second.replace("[arms.single]", "[arms.alone]").replace('"single"', '"alone"')
    tiny.write_text(second.replace("--baseline-mode --win-size 3", "--win-size 3 --baseline-mode --lr-start 5e-5"))
    assert main([str(tiny), "--savedir", str(tmp_path / "runs/second")]) == 0
    files = [tmp_path / "runs" / place for place in ("first/single/seed4", "second/alone/seed4")]
    for name in ("train/checkpoint.pth.tar", "train/automated_log.txt", "eval/report.json"):
        assert (files[0] / name).read_bytes() == (files[1] / name).read_bytes(), name
    assert str(tmp_path / "runs/second") in (files[1] / "eval/done.txt").read_text()
    assert not list((tmp_path / "runs").rglob("*.part"))
    assert capsys.readouterr().err.count("which is the same") == 3


def test_recipes_differ_where_results_may(tiny, tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"one")

    def recipe(text: str, threads: int = 1) -> str:
        tiny.write_text(text.replace("[arms.single]", f'[arms.single]\nstart = "{weights}"'))
        plan, runner = read_plan(str(tiny)), Runner(1, threads, tmp_path)
        (data,) = data_steps(plan, tmp_path / "run")
        data.folder.parent.mkdir(parents=True, exist_ok=True)
        data.recipe_file.write_text(runner._recipe(data))
        return runner._recipe(chains(plan, tmp_path / "run")[0].steps[0])

    first = recipe(TINY)
    assert recipe(TINY) == first
    others = [recipe(TINY.replace(*pair)) for pair in (
        ("--size 32x64", "--size 32x96"), ("seeds = [3, 4]", "seeds = [4]"), ("--win-size 3", "--win-size 4")
    )]  # fmt: skip
    others.append(recipe(TINY, threads=2))
    weights.write_bytes(b"two")
    others.append(recipe(TINY))
    monkeypatch.setattr("engine.experiments.runner._program_digest", lambda: "another program")
    others.append(recipe(TINY))
    assert len({first, *others}) == 1 + len(others)
    # Weights that were made in an unknown way make an unknown score.
    training, scoring = chains(read_plan(str(tiny)), tmp_path / "run")[0].steps
    assert not training.recipe_file.exists() and Runner(1, 1, tmp_path)._recipe(scoring) is None


def made(folder: Path, name: str, threads: int = 1) -> Path:
    """What a step of that library made: a file that tells apart what was run and what was copied."""
    script = "import pathlib, sys, time; print(time.time(), file=pathlib.Path(sys.argv[1], 'made').open('w'))"
    place = folder / name / "data" / "clips"
    Runner(1, threads, folder).run([Step(place, ("-c", script, str(place)), {"script": script})], [])
    return place / "made"


def test_only_what_is_whole_and_was_made_in_one_way_is_copied(tmp_path):
    first = made(tmp_path, "first")
    assert made(tmp_path, "second").read_text() == first.read_text()
    assert made(tmp_path, "threads", threads=2).read_text() != first.read_text()
    # What is there already is never replaced, and what was begun otherwise is no model for others.
    begun = tmp_path / "begun/data/clips"
    begun.mkdir(parents=True)
    (begun / "mine").write_text("kept")
    assert made(tmp_path, "begun").read_text() != first.read_text() and (begun / "mine").exists()
    for name in ("first", "second"):
        (tmp_path / name / "data/clips/done.txt").unlink()
    assert made(tmp_path, "third").read_text() not in (first.read_text(), (begun / "made").read_text())


def test_links_are_copied_as_links(tmp_path):
    source, large = made(tmp_path, "first").parent, tmp_path / "large"
    large.mkdir()
    (source / "frames").symlink_to(large)
    assert (made(tmp_path, "second").parent / "frames").readlink() == large


def step(folder: Path, script: str) -> Step:
    return Step(folder / "a", ("-c", script), {"script": script})


def test_a_step_that_was_another_command_is_not_taken_for_done(tmp_path):
    Runner(1, 1, tmp_path).run([step(tmp_path, "pass")], [])
    with pytest.raises(OptionError, match="another command"):
        Runner(1, 1, tmp_path).run([step(tmp_path, "print()")], [])


def test_a_command_that_fails_is_named_with_its_last_words(tmp_path):
    with pytest.raises(IncompleteError, match=r"status 3: too bad$"):
        Runner(1, 1, tmp_path).run([step(tmp_path, "print('too bad'); raise SystemExit(3)")], [])
    assert not (tmp_path / "a/done.txt").exists()


def test_threads_are_those_that_were_asked_for(tmp_path):
    Runner(1, 3, tmp_path).run(
        [step(tmp_path, "import os; raise SystemExit(os.environ['OMP_NUM_THREADS'] != '3')")], []
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("question = ", "cannot be read as TOML"),
        ("question = 'q'\nseeds = [1]\n", "'arms' is missing"),
        (TINY.replace("seeds = [3, 4]", "seeds = []"), "expected one seed"),
        (TINY.replace('data = "clips"', 'data = "others"'), "expected one of clips"),
        (TINY.replace('start = "T = 2"', 'begin = "T = 2"'), "arm another clip has begin"),
        (TINY.replace('reference = "single"', 'reference = "none such"'), "there is no such arm"),
        (TINY.replace('start = "single"', 'start = "another clip"'), "an arm that comes before it"),
        (TINY.replace("each = [1, 2]", "each = [1, 1]"), "whose names differ"),
        (TINY.replace("each = [1, 2]", 'each = [1, 2]\nat = "{}"'), "expected an axis"),
        (
            TINY.replace("each = [1, 2]", 'each = [1, 2]\nat = "far"'),
            "arm T = {} is at far: expected a number or motion",
        ),
        (TINY.replace("each = [1, 2]", "each = [1, 2]\nat = nan"), "is at nan: expected a number or motion"),
        (f'axis = "x"\n{TINY}'.replace("[arms.single]", "[arms.single]\nat = 1"), "expected a reference"),
        (TINY.replace("--warm-start 1", "--warm-up 1"), "arm T = 1: unrecognized arguments: --warm-up 1"),
        (
            f'axis = "x"\n{TINY}'.replace("each =", 'at = "motion"\neach =').replace(
                "datasets.synth", "engine.pseudo_labels x"
            ),
            "expected data of datasets.synthetic",
        ),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(text, said, tmp_path, capsys):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert main([str(path), "--savedir", str(tmp_path / "run")]) == 2
    words = capsys.readouterr().err
    assert said in words and words.count("\n") == 1


def test_an_unknown_name_is_answered_with_those_there_are():
    found = subprocess.run(
        [sys.executable, "-m", "engine.experiments", "nothing"], cwd=PROJECT, capture_output=True, text=True
    )
    assert found.returncode == 2
    assert found.stderr.startswith(
        "python -m engine.experiments: error: nothing: there is no such experiment: expected one of "
    )


def result(arm: str, seed: int, value: float) -> Result:
    return Result(arm, seed, {"mIoU": value}, {"road": value, "train": None})


def test_gains_are_counted_seed_by_seed(tiny):
    plan = read_plan(str(tiny))
    results = [result("single", 3, 0.5), result("single", 4, 0.6), result("T = 2", 3, 0.52), result("T = 2", 4, 0.58)]
    assert gains(plan, results, "T = 2", "mIoU") == pytest.approx({3: 0.02, 4: -0.02})
    assert gains(plan, results, "single", "mIoU") == {}
    text = markdown(plan, results, "here", {})
    # Deviation of 52 and 58: sqrt(2 * 3 ** 2) = 4.24; of +2 and -2: sqrt(2 * 2 ** 2) = 2.83.
    assert "| T = 2 | 2 | 55.00 ± 4.24 | +0.00 ± 2.83 over single | +2.00, -2.00 |" in text
    assert "**Not yet run:** T = 1, another clip." in text
    assert "| road | 55.0 | 55.0 |" in text and "| train | – | – |" in text
    assert csv_text(results).splitlines()[:3] == [
        "arm,seed,measure,value",
        "single,3,mIoU,0.500000",
        "single,3,IoU road,0.500000",
    ]


def test_gains_are_shown_against_the_plans_axis(tiny, tmp_path):
    write_dataset(tmp_path / "data/clips", 0, 1, StreetOptions(height=32, width=64, length=2))
    tiny.write_text(f'axis = "frames"\n{TINY}'.replace("each = [1, 2]", 'each = [1, 2]\nat = "{}"'))
    plan = read_plan(str(tiny))
    results = [result("single", 3, 0.5), result("T = 1", 3, 0.51), result("T = 2", 3, 0.52)]
    at = positions(plan, results, tmp_path)
    assert at == {"T = 1": 1.0, "T = 2": 2.0}
    text = markdown(plan, results, "here", at)
    assert "|  | frames | seeds | mIoU % |" in text
    assert "| single | – | 1 | 50.00 |" in text and "| T = 2 | 2 | 1 | 52.00 | +2.00 over single |" in text
    figure = Figure()
    _gains_along(figure.subplots(), plan, results, at)
    dots, line, zero = figure.axes[0].lines
    assert list(line.get_xdata()) == list(dots.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == pytest.approx([1, 2]) and list(zero.get_ydata()) == [0, 0]
    tiny.write_text(f'axis = "pixels"\n{TINY}'.replace('start = "single"', 'start = "single"\nat = "motion"'))
    moved = round(median_motion(tmp_path / "data/clips"), 3)
    assert moved > 0.1 and positions(read_plan(str(tiny)), results, tmp_path) == {"T = 1": moved, "T = 2": moved}
    # Without results there may be no clips yet.
    assert positions(read_plan(str(tiny)), [], tmp_path / "absent") == {}


def test_one_value_has_no_deviation():
    assert mean_and_deviation([0.1234]) == "12.34"
    assert mean_and_deviation([]) == "–"
    assert mean_and_deviation([0.01], signed=True) == "+1.00"
