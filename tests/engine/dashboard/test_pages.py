"""visdom's page and report.html in a real Chromium. Slow: run with -m slow; screenshots stay in pytest's folder."""

from pathlib import Path

import pytest
import torch
from visdom.utils.shared_utils import get_visdom_path

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.dashboard.run import RunDashboard
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.evaluate import Evaluation
from engine.reports.memory_view import memory_view
from engine.run_folder import EpochRow, RunFolder
from main import main
from models import build_lmanet
from tests.networks import LMANetConfig
from tests.visdom_server import VisdomServer, eventually
from tests.webdriver import Browser, why_no_browser
from utils.errors import UserError
from utils.visdom_scripts import fetch_with_npm, missing_files

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_no_browser() is not None, reason=str(why_no_browser()))]

TITLES = "return [...document.querySelectorAll('.window .bar')].map(e => e.textContent)"
# Address and place of the picture in the pane whose title begins so.
PICTURE = """
const pane = [...document.querySelectorAll('.window')].find(w => w.querySelector('.bar').textContent.includes('%s'));
const image = pane && pane.querySelector('img');
if (!image || !image.complete || !image.naturalWidth) return null;
const r = image.getBoundingClientRect();
return [image.src, r.x, r.y, r.width, r.height];
"""


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """The scripts of visdom's page, from npm, in a temporary folder."""
    folder = tmp_path_factory.mktemp("scripts")
    if missing_files(Path(get_visdom_path("static"))):
        try:
            fetch_with_npm(folder)
        except UserError as error:
            pytest.skip(str(error))
    return folder


@pytest.fixture
def server(tmp_path, scripts):
    server = VisdomServer(tmp_path / "server", scripts).start()
    yield server
    server.kill()


@pytest.fixture
def dashboard(tmp_path, server):
    """A dashboard after one epoch, of a network with random weights and frames of 64 x 128 (features of 8 x 16)."""
    torch.manual_seed(0)
    model, frames = build_lmanet(LMANetConfig(corr_size=5)), torch.randint(0, 256, (4, 3, 64, 128), dtype=torch.uint8)
    folder = RunFolder(tmp_path / "Straße 1", False)
    cpu = torch.device("cpu")
    shown = RunDashboard(server.port, folder, CITYSCAPES_CLASSES, 1, lambda: memory_view(model, frames, cpu))
    label = torch.arange(64, dtype=torch.uint8).view(64, 1).expand(64, 128) // 16
    result = Evaluation(ConfusionMatrix(20), ConfusionMatrix(20), network_seconds=[0.01])
    result.confusion.update(label, label)
    shown.see_clip(0, frames[-1], label, label)
    shown.step(1, 1, 1, 2.0)
    shown.epoch([EpochRow(1, 2.0, 1.0, 0.0, 0.5, 1e-4)], result)
    yield shown
    shown.close()


def test_a_click_into_the_page_changes_the_heat_maps(dashboard, server, tmp_path):
    with Browser(1300, 1000) as browser:
        browser.open(f"http://localhost:{server.port}/env/Straße 1_pictures")
        assert eventually(lambda: browser.run(PICTURE % "memory frame −1"), 60)
        assert eventually(lambda: browser.run(PICTURE % "legend"), 60)
        before = {name: browser.run(PICTURE % name)[0] for name in ("memory frame −1", "memory frame −3")}
        _, x, y, width, height = eventually(lambda: browser.run(PICTURE % "click twice"), 60)
        for _ in range(2):  # the first one gives the pane the focus
            browser.click(x + width * 14.5 / 16, y + height * 1.5 / 8)
        assert eventually(lambda: dashboard._cell == (1, 14), 20), dashboard._cell
        for name, source in before.items():
            assert eventually(lambda name=name, source=source: browser.run(PICTURE % name)[0] != source, 20)
        assert "pixel 1, 14 " in browser.run("return document.body.textContent")
        browser.screenshot(tmp_path / "pictures.png")


def test_graphs_are_drawn(dashboard, server, tmp_path):
    with Browser(1640, 1300) as browser:
        browser.open(f"http://localhost:{server.port}/env/Straße 1_graphs")
        drawn = "return document.querySelectorAll('.window .js-plotly-plot .main-svg').length"
        assert eventually(lambda: browser.run(drawn) >= 7, 60)
        titles = " ".join(browser.run(TITLES))
        for title in ("loss", "mean IoU", "learning rate", "loss by step", "IoU per class", "confusion", "time"):
            assert title in titles
        outside = "return performance.getEntriesByType('resource').map(e => new URL(e.name).hostname)"
        assert set(browser.run(outside)) <= {"localhost", ""}
        browser.screenshot(tmp_path / "graphs.png")


@pytest.mark.parametrize(("width", "height"), [(1200, 900), (375, 800)])
def test_the_report_fits_a_screen_and_a_phone(command, tmp_path, width, height):
    assert main(command("--eval-mode")) == 0
    with Browser(width, height) as browser:
        browser.open((tmp_path / "run" / "report.html").as_uri())
        assert browser.run("return document.documentElement.scrollWidth") <= width
        broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert eventually(lambda: browser.run(broken) == 0)
        assert browser.run("return document.images.length") > 10
        assert (
            browser.run(
                "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
            )
            == 0
        )
        browser.screenshot(tmp_path / "report.png")
