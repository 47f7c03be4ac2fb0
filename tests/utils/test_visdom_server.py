"""The command that starts the visdom server: its page, its end, and what it says about wrong options."""

import http.client
import signal
import subprocess
import sys

import pytest

from tests.visdom_server import PROJECT, VisdomServer

COMMAND = (sys.executable, "-m", "utils.visdom_server")


@pytest.fixture
def server(tmp_path):
    server = VisdomServer(tmp_path / "server").start()
    yield server
    server.kill()


def got(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_page_and_its_own_files_are_served(server):
    for path in ("/", "/env/main"):
        status, page = got(server.port, path)
        assert (status, "js/main.js" in page, "user/style.css" in page) == (200, True, True)
    for path in ("/user/style.css", "/static/css/style.css", "/static/js/main.js"):
        assert got(server.port, path)[0] == 200


def test_more_scripts_are_served_from_a_folder_of_ones_own(tmp_path):
    (tmp_path / "scripts" / "js").mkdir(parents=True)
    (tmp_path / "scripts" / "js" / "sjcl.js").write_text("// mine")
    (tmp_path / "secret.txt").write_text("secret")
    server = VisdomServer(tmp_path / "server", tmp_path / "scripts").start()
    try:
        assert got(server.port, "/static/js/sjcl.js") == (200, "// mine")
        assert got(server.port, "/static/../secret.txt")[0] in (403, 404)
    finally:
        server.kill()


def test_ctrl_c_is_the_usual_end(server):
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0


def test_nothing_stays_hidden_after_the_import():
    """What is left out of visdom's import must be found by whoever looks for it later."""
    code = (
        "import sys; found = list(sys.meta_path); import utils.visdom_server; "
        "print(None in sys.modules.values(), sys.meta_path == found, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]


def test_what_is_wrong_is_said_in_one_line(server, tmp_path):
    (tmp_path / "file").write_text("")
    for options, said in (
        (("--port", str(server.port), "--env-path", str(tmp_path / "other")), f"--port {server.port}: Address already"),
        (("--port", "99999"), "'99999': expected a number from 1 to 65535"),
        (("--env-path", str(tmp_path / "file" / "run")), f"--env-path {tmp_path}/file/run: cannot be made"),
    ):
        done = subprocess.run([*COMMAND, *options], cwd=PROJECT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        assert len(errors) == 1 and said in errors[0] and "Traceback" not in done.stderr
