"""A non-blocking client of the visdom server: a run sets the contents of windows, a thread sends them.

The client keeps the contents of all windows, and sends those that the server lacks: nothing is lost where the server is
absent, starts late or restarts. Of a window that changes faster than it can be sent, only the last state is sent; the
queue is bounded by the number of windows, and of pictures in a history.

The thread computes for at most 2 % of the time, and connects to the loopback interface only, without proxies.
"""

import http.client
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from utils.errors import OptionError
from utils.files import own_folder, write_text
from utils.json_text import from_json, to_json
from utils.visdom_settings import HOST, LONGEST_HISTORY

# Own code although visdom has a client: that one posts in the caller's thread without a timeout, so that a server that
# hangs stops the run; and contents that it cannot send are lost.

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 0.3
LONGEST_PAUSE_SECONDS = 30.0
# Seconds of sleep for each second of computing.
REST = 50
# Height in pixels of a pane's title bar and its line, on the server's page.
BAR = 15
# Time limit of writing the windows at the end, on a busy machine.
DISK_SECONDS = 10.0
# The server's page does not escape these in scripts and addresses.
UNSAFE_IN_NAMES = re.compile(r"[\x00-\x1f\\/'\"<>&%+#?]")
LONGEST_NAME_BYTES = 200

# Of visdom's protocol, for one window: "data", "layout" and "opts".
Message = dict[str, Any]
Render = Callable[[], Message]
# Called with the row and column of a click in a picture, in pixels of the picture.
OnClick = Callable[[float, float], None]


def environment_name(name: str) -> str:
    """A valid visdom environment and file name: characters that are not allowed are replaced, long names shortened."""
    safe = UNSAFE_IN_NAMES.sub("_", name)
    return safe.encode("utf-8", "replace")[:LONGEST_NAME_BYTES].decode("utf-8", "ignore") or "run"


@dataclass(eq=False)
class _Window:
    """Contents of a window: one message, or the messages of a history; the server has the first ``sent`` of them."""

    environment: str
    name: str
    renders: list[Render | Message] = field(default_factory=list)
    sent: int = 0

    def message(self, position: int, renders: list[Render | Message]) -> Message:
        """The message at a position of ``renders``, which is rendered on first use."""
        message = renders[position]
        if not isinstance(message, dict):
            renders[position] = message = message()
        return {**message, "win": self.name, "eid": self.environment}


class Dashboard:
    """Windows of a run in visdom environments; no call blocks, and none fails because of the server.

    ``environments`` are all environments of the run; windows that the server holds in them are closed at the first
    connection.
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
        """Replaces the contents of a window by those that ``render`` returns; the client's thread calls it."""
        with self._lock:
            shown = self._window(environment, window)
            shown.renders, shown.sent = [render], 0

    def add(self, environment: str, window: str, render: Render) -> None:
        """Adds a picture to the history of a window; ``render`` as in ``show``."""
        with self._lock:
            shown = self._window(environment, window)
            shown.renders.append(render)
            if len(shown.renders) > LONGEST_HISTORY:
                shown.renders, shown.sent = shown.renders[1:], max(0, shown.sent - 1)

    def on_click(self, environment: str, window: str, answer: OnClick) -> None:
        """Registers a callback for clicks on a picture; a thread of its own calls it."""
        with self._lock:
            self._clicks[environment, window] = answer

    def save(self, folder: Path) -> None:
        """Has the thread write every environment to ``FOLDER/ENVIRONMENT.json``, in visdom's format."""
        with self._lock:
            self._save_to = folder

    def wake(self) -> None:
        """Sends changes without the usual pause, as a user is waiting."""
        self._wake.set()

    def close(self, seconds: float = TIMEOUT_SECONDS) -> None:
        """Writes changes to disk, and sends them for at most ``seconds`` if a server answers."""
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
                # At the end, one more try to connect to a server that was connected before: it may have restarted.
                if self._connected or ((self._greeted or not closing) and self._connect()):
                    self._send_missing()
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._lost(error)
                if closing and was_connected:
                    self._next_try = 0.0
                    continue
            except Exception:  # an error in a picture must not end a training
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
        present = from_json(self._posted("env_state", {}))
        if not isinstance(present, list):
            raise ValueError("the server that answers is not visdom")
        with self._lock:
            for window in self._windows.values():
                window.sent = 0
        if not self._greeted:
            # Windows of an earlier run of the same name.
            for environment in set(self.environments) & set(present):
                self._posted("close", {"win": None, "eid": environment})
            addresses = (f"http://localhost:{self.port}/env/{quote(name)}" for name in self.environments)
            log.info("visdom shows this run: %s", " and ".join(addresses))
        elif self._warned:
            log.info("visdom answers again at http://localhost:%d: missing windows are sent", self.port)
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
                "--visualize: no visdom server answers at http://localhost:%d (%s); the run goes on, and windows are "
                "sent once one answers: start it with `visdom`, or without internet access with "
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
                    # Before sending, so that a window that cannot be rendered is not retried forever.
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
        environments: dict[str, dict[str, Any]] = {}
        for window, renders in windows:
            messages = [window.message(position, renders) for position in range(len(renders))]
            jsons = environments.setdefault(window.environment, {})
            jsons[window.name] = {**_stored_window(messages), "i": len(jsons)}
        try:
            own_folder(folder)
            for environment, jsons in environments.items():
                write_text(folder / f"{environment}.json", to_json({"jsons": jsons, "reload": {}}, indent=None))
        except (OSError, OptionError) as error:
            log.warning("%s: the dashboard's windows could not be written: %s", folder, error)
        if self._connected:
            self._posted("save", {"data": list(environments)})

    def _posted(self, endpoint: str, message: Message) -> str:
        """The server's answer. Raises ``OSError`` or ``HTTPException`` where it does not answer."""
        left = max(0.1, min(TIMEOUT_SECONDS, self._give_up_at - time.monotonic()))
        connection = http.client.HTTPConnection(HOST, self.port, timeout=left)
        try:
            connection.request(
                "POST", f"/{endpoint}", to_json(message, indent=None), {"Content-Type": "application/json"}
            )
            return connection.getresponse().read().decode("utf-8", "replace")
        finally:
            connection.close()

    def _listen(self) -> None:
        """Handles clicks until the server ends the connection."""
        import websocket  # here, as only runs with --visualize need it

        try:
            # Without this socket the library would use the proxy of the environment.
            direct = socket.create_connection((HOST, self.port), TIMEOUT_SECONDS)
            events = websocket.create_connection(f"ws://{HOST}:{self.port}/vis_socket", socket=direct)
            events.settimeout(None)
            while not self._closing.is_set():
                text = events.recv()
                if not text:
                    break
                self._answer(from_json(text))
        except (OSError, websocket.WebSocketException, ValueError) as error:
            log.debug("the dashboard's socket ended: %s", error)
        if threading.current_thread() is self._listener and not self._closing.is_set():
            self._connected = False

    def _answer(self, event: dict[str, Any]) -> None:
        place = event.get("image_coord")
        with self._lock:
            answer = self._clicks.get((event.get("eid", ""), event.get("target", "")))
        if event.get("event_type") != "Click" or answer is None or not isinstance(place, dict):
            return
        try:
            answer(*_place(event))
        except Exception:  # nor must an error in a click
            log.warning("the dashboard could not answer a click", exc_info=True)
        self.wake()


def _place(event: dict[str, Any]) -> tuple[float, float]:
    """Row and column of a click in pixels of visdom 0.2, whose page draws pictures one pixel wider than requested.

    The page of visdom 0.3, whose panes have versions, draws them 2 pixels narrower, and their middle 8 pixels higher.
    """
    down, right = float(event["image_coord"]["y"]), float(event["image_coord"]["x"])
    pane = event.get("pane_data") or {}
    if "version" not in pane:
        return down, right
    middle = (pane["height"] + BAR) / 2
    scale = (pane["width"] - 1) / (pane["width"] + 1)
    return middle + (down - (middle - 8)) / scale, right / scale


def _stored_window(messages: list[Message]) -> dict[str, Any]:
    """The window that the server of visdom 0.2 stores after these messages."""
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


def saved_window(folder: Path, environment: str, window: str) -> dict[str, Any] | None:
    """A window of a saved environment, in visdom's format; ``None`` where there is none that can be read."""
    try:
        found = from_json((folder / f"{environment}.json").read_text(encoding="utf-8"))["jsons"][window]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None
