"""The client of the visdom server, against a real one: late, killed, started again, slow, absent."""

import json
import logging
import socket
import threading
import time

import pytest

from engine.dashboard.client import LONGEST_HISTORY, Dashboard, environment_name, saved_window
from tests.visdom_server import VisdomServer, eventually, free_port


@pytest.fixture
def server(tmp_path):
    server = VisdomServer(tmp_path / "server")
    yield server
    server.kill()


@pytest.fixture
def client_of():
    clients = []

    def make(port, environments=("run",)):
        clients.append(Dashboard(port, environments, retry_seconds=0.2))
        return clients[-1]

    yield make
    for client in clients:
        client.close(1)


def picture(caption):
    content = {"src": "data:image/png;base64,", "caption": caption}
    return {"data": [{"content": content, "type": "image_history"}], "opts": {"title": "pictures"}}


def line(*y):
    trace = {"type": "scatter", "x": list(range(len(y))), "y": list(y), "name": "loss"}
    return {"data": [trace], "layout": {}, "opts": {"title": "loss"}}


def loss_of(windows):
    return windows.get("loss", {}).get("content", {}).get("data", [{}])[0].get("y")


def captions_of(windows):
    return [content["caption"] for content in windows.get("pictures", {}).get("content", [])]


def test_what_was_shown_before_the_server_came_is_sent_then(server, client_of, caplog):
    caplog.set_level(logging.INFO)
    client = client_of(server.port)
    client.show("run", "loss", lambda: line(3))
    client.show("run", "loss", lambda: line(3, 2))
    for epoch in (1, 2):
        client.add("run", "pictures", lambda epoch=epoch: picture(f"epoch {epoch}"))
    assert eventually(lambda: "no visdom server answers" in caplog.text)
    time.sleep(1)
    assert caplog.text.count("no visdom server answers") == 1
    server.start()
    assert eventually(lambda: captions_of(server.windows("run")) == ["epoch 1", "epoch 2"])
    assert loss_of(server.windows("run")) == [3, 2]
    assert f"http://localhost:{server.port}/env/run" in caplog.text


def test_a_server_that_is_killed_and_started_again_gets_everything_once_more(server, client_of, caplog):
    caplog.set_level(logging.INFO)
    client = client_of(server.start().port)
    client.show("run", "loss", lambda: line(3))
    client.add("run", "pictures", lambda: picture("epoch 1"))
    assert eventually(lambda: captions_of(server.windows("run")) == ["epoch 1"])
    server.kill()
    client.add("run", "pictures", lambda: picture("epoch 2"))
    client.show("run", "loss", lambda: line(3, 2))
    assert eventually(lambda: "no visdom server answers" in caplog.text)
    server.start()
    assert eventually(lambda: captions_of(server.windows("run")) == ["epoch 1", "epoch 2"])
    assert loss_of(server.windows("run")) == [3, 2]


def test_a_restart_is_seen_also_where_nothing_new_is_sent(server, client_of):
    client = client_of(server.start().port)
    client.show("run", "loss", lambda: line(3))
    assert eventually(lambda: loss_of(server.windows("run")) == [3])
    server.kill()
    server.start()
    assert eventually(lambda: loss_of(server.windows("run")) == [3])


def test_windows_of_an_earlier_run_of_the_same_name_are_closed(server, client_of):
    earlier = client_of(server.start().port)
    earlier.show("run", "gone", lambda: line(1))
    earlier.show("run", "loss", lambda: line(1))
    assert eventually(lambda: len(server.windows("run")) == 2)
    earlier.close()
    client_of(server.port).show("run", "loss", lambda: line(9))
    assert eventually(lambda: loss_of(server.windows("run")) == [9])
    assert set(server.windows("run")) == {"loss"}


def test_calls_return_at_once_also_where_the_server_never_answers(client_of):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = client_of(silent.getsockname()[1])
        start = time.monotonic()
        for number in range(1000):
            client.show("run", "loss", lambda number=number: line(number))
            client.add("run", "pictures", lambda number=number: picture(str(number)))
        assert time.monotonic() - start < 2.0
        start = time.monotonic()
        client.close(0.5)
        assert time.monotonic() - start < 8.0  # one request of five seconds may be under way


def test_the_server_keeps_every_picture_of_a_history(server, client_of):
    client = client_of(server.start().port)
    captions = [f"epoch {number}" for number in range(1, 10)]
    for caption in captions:
        client.add("run", "pictures", lambda caption=caption: picture(caption))
    assert eventually(lambda: captions_of(server.windows("run")) == captions)


def test_a_history_is_bounded(client_of, tmp_path):
    client = client_of(free_port())
    for number in range(LONGEST_HISTORY + 7):
        client.add("run", "pictures", lambda number=number: picture(str(number)))
    client.save(tmp_path)
    client.close()
    captions = [content["caption"] for content in saved_window(tmp_path, "run", "pictures")["content"]]
    assert (captions[0], captions[-1], len(captions)) == ("7", str(LONGEST_HISTORY + 6), LONGEST_HISTORY)


def test_environments_are_written_as_visdom_reads_them(server, client_of, tmp_path):
    client = client_of(free_port(), ("Straße 1_graphs",))
    client.show("Straße 1_graphs", "loss", lambda: line(3, 2))
    client.add("Straße 1_graphs", "pictures", lambda: picture("epoch 1"))
    client.add("Straße 1_graphs", "pictures", lambda: picture("epoch 2"))
    client.save(server.folder)
    client.close()
    windows = server.start().windows("Straße 1_graphs")  # the server reads its folder
    assert loss_of(windows) == [3, 2]
    assert captions_of(windows) == ["epoch 1", "epoch 2"]
    assert windows["pictures"]["selected"] == 1
    assert saved_window(server.folder, "Straße 1_graphs", "nothing") is None
    assert saved_window(server.folder, "another", "loss") is None


def test_what_cannot_be_drawn_is_said_and_the_rest_is_shown(server, client_of, caplog):
    client = client_of(server.start().port)
    client.show("run", "broken", lambda: {}["nothing"])
    client.show("run", "loss", lambda: line(1))
    assert eventually(lambda: loss_of(server.windows("run")) == [1])
    assert "could not show something" in caplog.text


def test_nothing_goes_to_a_proxy(server, client_of, monkeypatch):
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.settimeout(0.1)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "elsewhere.example")
        client = client_of(server.start().port)
        client.show("run", "loss", lambda: line(1))
        assert eventually(lambda: loss_of(server.windows("run")) == [1])
        assert eventually(lambda: client.connected)
        time.sleep(0.5)
        with pytest.raises(TimeoutError):
            proxy.accept()


def test_clicks_into_a_picture_are_answered(server, client_of):
    import websocket

    places, answered = [], threading.Event()

    def answer(down, right):
        places.append((down, right))
        client.show("run", "loss", lambda: line(down, right))
        answered.set()

    client = client_of(server.start().port)
    client.on_click("run", "pictures", answer)
    client.add("run", "pictures", lambda: picture("epoch 1"))
    assert eventually(lambda: captions_of(server.windows("run")))
    page = websocket.create_connection(f"ws://127.0.0.1:{server.port}/socket", timeout=10)
    for target, event in (("another", "Click"), ("pictures", "KeyPress"), ("pictures", "Click")):
        data = {
            "event_type": event,
            "target": target,
            "eid": "run",
            "pane_data": False,
            "image_coord": {"x": 7, "y": 3},
        }
        page.send(json.dumps({"cmd": "forward_to_vis", "data": data}))
    assert answered.wait(10)
    page.close()
    assert places == [(3.0, 7.0)]
    assert eventually(lambda: loss_of(server.windows("run")) == [3, 7])


def test_clicks_are_counted_alike_on_the_pages_of_both_visdoms(client_of):
    """A picture of 64 x 128 in a pane of 81 x 127: visdom 0.3 draws 63 x 126 of it, 8.5 instead of 16 below the bar."""
    places, client = [], client_of(free_port())
    client.on_click("run", "frame", lambda *place: places.append(place))
    click = {"event_type": "Click", "eid": "run", "target": "frame"}
    old = {"width": 127, "height": 81}
    client._answer({**click, "image_coord": {"x": 116, "y": 16 + 12}, "pane_data": old})
    new = {**old, "version": 3}
    client._answer({**click, "image_coord": {"x": 116 * 126 / 128, "y": 8.5 + 12 * 126 / 128}, "pane_data": new})
    assert places == [(28, 116), (pytest.approx(28), pytest.approx(116))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my run_graphs", "my run_graphs"),
        ("Прогон 7 – ß", "Прогон 7 – ß"),
        ("it's \\ a <b>100%", "it_s _ a _b_100_"),
        ("ß" * 300, "ß" * 100),
    ],
)
def test_names_of_environments(name, expected):
    assert environment_name(name) == expected
