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


def answered(port, method="POST", path="/events", **headers):
    """The status of an answer to a request with these headers; ``None`` leaves one out."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in headers.items():
            for each in value if isinstance(value, list) else [value]:
                connection.putheader(name, each)
        content = b'{"eid": "run", "win": "w", "data": [{"type": "text", "content": "c"}], "layout": {}, "opts": {}}'
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        return connection.getresponse().status
    finally:
        connection.close()


def test_pages_of_other_sites_are_refused(server):
    local = f"localhost:{server.port}"
    own = [
        {"Host": local},
        {"Host": f"127.0.0.1:{server.port}", "Origin": f"http://127.0.0.1:{server.port}"},
        {"Host": "LOCALHOST:9000", "Origin": "http://localhost:9000"},  # through a tunnel
        {"Host": "[::1]:80", "Origin": "http://[::1]:80"},
    ]
    foreign = [
        {"Host": f"evil.example:{server.port}"},  # a name that resolves to this machine
        {"Host": f"evil.example:{server.port}", "Origin": f"http://evil.example:{server.port}"},
        {"Host": local, "Origin": "http://evil.example"},
        {"Host": local, "Origin": "null"},
        {"Host": local, "Origin": ""},
        {"Host": local, "Origin": "http://localhost:3000"},  # another program's page on this machine
        {"Host": local, "Origin": f"http://{local}.evil.example"},
        {"Host": local, "Origin": f"http://evil.example@{local}"},
        {"Host": f"{local}@evil.example"},
        {"Host": f"localhost.evil.example:{server.port}"},
        {"Host": f"127.0.0.1.evil.example:{server.port}"},
        {"Host": local, "Origin": [f"http://{local}", "http://evil.example"]},
    ]
    for method, path in (("POST", "/events"), ("POST", "/env_state"), ("GET", "/"), ("GET", "/static/js/main.js")):
        assert [answered(server.port, method, path, **headers) for headers in own] == [200] * len(own)
        found = [answered(server.port, method, path, **headers) for headers in foreign]
        assert all(status in (400, 403) for status in found), list(zip(found, foreign, strict=True))


def test_websockets_of_other_sites_are_refused(server):
    websocket = pytest.importorskip("websocket")
    local = f"localhost:{server.port}"

    def greeting(path, **named):
        connection = websocket.create_connection(f"ws://127.0.0.1:{server.port}/{path}", timeout=20, **named)
        try:
            return connection.recv()
        finally:
            connection.close()

    for path in ("socket", "vis_socket"):
        assert "command" in greeting(path, host=local, origin=f"http://{local}")
        for host, origin in ((local, "http://evil.example"), ("evil.example", "http://evil.example"), (local, "null")):
            with pytest.raises(websocket.WebSocketBadStatusException, match="403") as refused:
                greeting(path, host=host, origin=origin)
            assert "Traceback" not in str(refused.value)


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


def test_without_visdom_it_says_what_to_install(tmp_path):
    (tmp_path / "visdom").mkdir()
    (tmp_path / "visdom" / "__init__.py").write_text("raise ModuleNotFoundError('visdom', name='visdom')")
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); "
    code += "runpy.run_module('utils.visdom_server', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'utils.visdom_server: error: visdom is not installed: pip install visdom "tornado<6.6"'
    ]


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
