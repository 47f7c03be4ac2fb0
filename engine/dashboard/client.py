"""A client of the visdom server that a run never waits for: it says what windows are to hold, a thread brings it there.

Windows are kept here as they are to be. So nothing is lost where the server is absent, starts late or is started anew:
once it answers, what it lacks is sent. A window that changes faster than it can be sent is sent as it is last; so what
waits is bounded by the number of windows, and of pictures in a history.

The thread spends at most 2 % of its time computing, and speaks with this machine alone, past all proxies.
"""

import http.client
import json
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import websocket

from utils.files import write_text

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
RETRY_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 0.3
LONGEST_PAUSE_SECONDS = 30.0
# Seconds to rest for each second of computing.
REST = 50
LONGEST_HISTORY = 300
# What writing the windows may take at most, on a machine that is busy with other things.
DISK_SECONDS = 10.0
# The server's page puts names into scripts and addresses as they are.
UNSAFE_IN_NAMES = re.compile(r"[\x00-\x1f\\/'\"<>&%+#?]")
LONGEST_NAME_BYTES = 200

# What visdom's own client would send for a window: "data", "layout" and "opts".
Message = dict
Render = Callable[[], Message]
# Called with the place of a click in a picture, down and right in pixels of the picture itself.
OnClick = Callable[[float, float], None]


def environment_name(name: str) -> str:
    """A name that visdom's page and a file system can take: as it is, but for a few signs and for what is too long."""
    safe = UNSAFE_IN_NAMES.sub("_", name)
    return safe.encode("utf-8", "replace")[:LONGEST_NAME_BYTES].decode("utf-8", "ignore") or "run"


@dataclass(eq=False)
class _Window:
    """What a window is to hold: one message, or the messages of a history; and how many of them the server has."""

    environment: str
    name: str
    renders: list[Render | Message] = field(default_factory=list)
    sent: int = 0

    def message(self, position: int, renders: list[Render | Message]) -> Message:
        """The message at a position of ``renders``, which is made once and kept."""
        if not isinstance(renders[position], dict):
            renders[position] = renders[position]()
        return {**renders[position], "win": self.name, "eid": self.environment}


class Dashboard:
    """Windows of a run in visdom environments. Every call returns at once, and none fails for the server's sake.

    ``environments`` are all that the run has; what a server still holds under their names is closed first.
    """

    def __init__(self, port: int, environments: Sequence[str], retry_seconds: float = RETRY_SECONDS):
        self.port, self.environments, self.retry_seconds = port, environments, retry_seconds
        self._windows: dict[tuple[str, str], _Window] = {}
        self._clicks: dict[tuple[str, str], OnClick] = {}
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._save_to: Path | None = None
        self._connected, self._greeted, self._warned = False, False, False
        self._next_try, self._give_up_at = 0.0, float("inf")
        self._listener: threading.Thread | None = None
        self._sender = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._sender.start()

    @property
    def connected(self) -> bool:
        """Whether a server answers."""
        return self._connected

    def show(self, environment: str, window: str, render: Render) -> None:
        """Puts a message into a window, in place of what it holds. ``render`` is called by the thread."""
        with self._lock:
            shown = self._window(environment, window)
            shown.renders, shown.sent = [render], 0

    def add(self, environment: str, window: str, render: Render) -> None:
        """Adds a picture to the history of a window."""
        with self._lock:
            shown = self._window(environment, window)
            shown.renders.append(render)
            if len(shown.renders) > LONGEST_HISTORY:
                shown.renders, shown.sent = shown.renders[1:], max(0, shown.sent - 1)

    def on_click(self, environment: str, window: str, answer: OnClick) -> None:
        """Has clicks into a picture answered, by a thread of its own."""
        with self._lock:
            self._clicks[environment, window] = answer

    def save(self, folder: Path) -> None:
        """Writes every environment to ``FOLDER/ENVIRONMENT.json`` soon, in the form that visdom itself saves them."""
        with self._lock:
            self._save_to = folder

    def wake(self) -> None:
        """Sends what is new without the usual pause: someone is waiting for it."""
        self._wake.set()

    def close(self, seconds: float = TIMEOUT_SECONDS) -> None:
        """Brings what is missing to disk, and for at most ``seconds`` to the server, if one answers."""
        self._give_up_at = time.monotonic() + seconds
        self._next_try = 0.0
        self._closing.set()
        self._wake.set()
        self._sender.join(seconds + DISK_SECONDS)

    def _window(self, environment: str, window: str) -> _Window:
        return self._windows.setdefault((environment, window), _Window(environment, window))

    def _run(self) -> None:
        while True:
            closing, computing = self._closing.is_set(), time.thread_time()
            was_connected = self._connected
            self._wake.clear()
            try:
                self._write_files()
                # At the end a server that has been there gets one more chance: it may have been started again.
                if self._connected or ((self._greeted or not closing) and self._connect()):
                    self._send_missing()
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._lost(error)
                if closing and was_connected:
                    self._next_try = 0.0
                    continue
            except Exception:  # whatever goes wrong in a picture must not end a training
                log.warning("the dashboard could not show something; the run goes on", exc_info=True)
            if closing:
                return
            if not self._closing.is_set():
                rest = REST * (time.thread_time() - computing)
                self._wake.wait(min(max(PAUSE_SECONDS, rest), LONGEST_PAUSE_SECONDS))

    def _connect(self) -> bool:
        if time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + self.retry_seconds
        present = json.loads(self._posted("env_state", {}))
        if not isinstance(present, list):
            raise ValueError("what answers is no visdom server")
        with self._lock:
            for window in self._windows.values():
                window.sent = 0
        if not self._greeted:
            # An earlier run of the same name may have left windows that this one does not have.
            for environment in set(self.environments) & set(present):
                self._posted("close", {"win": None, "eid": environment})
            addresses = (f"http://localhost:{self.port}/env/{quote(name)}" for name in self.environments)
            log.info("visdom shows this run: %s", " and ".join(addresses))
        elif self._warned:
            log.info("visdom answers again at http://localhost:%d: what it lacks is sent", self.port)
        self._connected = self._greeted = True
        self._listener = threading.Thread(target=self._listen, name="dashboard-clicks", daemon=True)
        self._listener.start()
        return True

    def _lost(self, error: Exception) -> None:
        self._connected = False
        self._next_try = time.monotonic() + self.retry_seconds
        if not self._warned and not self._closing.is_set():
            self._warned = True
            log.warning(
                "--visualize: no visdom server answers at http://localhost:%d (%s); the run goes on, and what is "
                "missing is sent once one does: start it with `visdom`, or without internet with "
                "`python -m utils.visdom_server`",
                self.port,
                error,
            )

    def _send_missing(self) -> None:
        with self._lock:
            windows = list(self._windows.values())
        for window in windows:
            while self._connected and time.monotonic() < self._give_up_at:
                with self._lock:
                    renders, position = window.renders, window.sent
                if position >= len(renders):
                    break
                try:
                    message = window.message(position, renders)
                finally:
                    # Before it is sent, so that what cannot be drawn is not tried for ever.
                    with self._lock:
                        if window.renders is renders:
                            window.sent = position + 1
                self._posted("events" if position == 0 else "update", message)

    def _write_files(self) -> None:
        with self._lock:
            folder, self._save_to = self._save_to, None
            windows = [(window, window.renders) for window in self._windows.values()]
        if folder is None:
            return
        environments: dict[str, dict] = {}
        for window, renders in windows:
            messages = [window.message(position, renders) for position in range(len(renders))]
            jsons = environments.setdefault(window.environment, {})
            jsons[window.name] = {**_as_the_server_keeps_it(messages), "i": len(jsons)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for environment, jsons in environments.items():
                write_text(folder / f"{environment}.json", json.dumps({"jsons": jsons, "reload": {}}))
        except OSError as error:
            log.warning("%s: the dashboard's windows could not be written: %s", folder, error)
        if self._connected:
            self._posted("save", {"data": list(environments)})

    def _posted(self, endpoint: str, message: dict) -> str:
        """The server's answer; raises ``OSError`` or ``HTTPException`` where there is none."""
        left = max(0.1, min(TIMEOUT_SECONDS, self._give_up_at - time.monotonic()))
        connection = http.client.HTTPConnection(HOST, self.port, timeout=left)
        try:
            connection.request("POST", f"/{endpoint}", json.dumps(message), {"Content-Type": "application/json"})
            return connection.getresponse().read().decode("utf-8", "replace")
        finally:
            connection.close()

    def _listen(self) -> None:
        """Answers clicks until the server goes, which is seen here first."""
        try:
            # Connected here: left to itself, the library goes through the proxy that the environment names.
            direct = socket.create_connection((HOST, self.port), TIMEOUT_SECONDS)
            events = websocket.create_connection(f"ws://{HOST}:{self.port}/vis_socket", socket=direct)
            events.settimeout(None)
            while not self._closing.is_set():
                text = events.recv()
                if not text:
                    break
                self._answer(json.loads(text))
        except (OSError, websocket.WebSocketException, ValueError) as error:
            log.debug("the dashboard's socket ended: %s", error)
        if threading.current_thread() is self._listener and not self._closing.is_set():
            self._connected = False

    def _answer(self, event: dict) -> None:
        place = event.get("image_coord")
        with self._lock:
            answer = self._clicks.get((event.get("eid"), event.get("target")))
        if event.get("event_type") != "Click" or answer is None or not isinstance(place, dict):
            return
        try:
            answer(float(place["y"]), float(place["x"]))
        except Exception:  # a click must not end a training either
            log.warning("the dashboard could not answer a click", exc_info=True)
        self.wake()


def _as_the_server_keeps_it(messages: list[Message]) -> dict:
    """A window as visdom 0.2 makes it of the messages that it gets."""
    first, opts = messages[0], messages[0]["opts"]
    kept = {
        "command": "window",
        "id": first["win"],
        "title": opts.get("title", ""),
        "inflate": True,
        "width": opts.get("width"),
        "height": opts.get("height"),
        "contentID": str(uuid.uuid4()),
    }
    kind = first["data"][0]["type"]
    if kind == "image_history":
        contents = [message["data"][0]["content"] for message in messages]
        return {**kept, "type": kind, "content": contents, "selected": len(contents) - 1, "show_slider": True}
    if kind in ("image", "text"):
        return {**kept, "type": kind, "content": first["data"][0]["content"]}
    return {**kept, "type": "plot", "content": {"data": first["data"], "layout": first["layout"]}}


def saved_window(folder: Path, environment: str, window: str) -> dict | None:
    """What a window held when its environment was saved last, as visdom keeps it; ``None`` where it is not known."""
    try:
        return json.loads((folder / f"{environment}.json").read_text(encoding="utf-8"))["jsons"][window]
    except (OSError, ValueError, KeyError, TypeError):
        return None
