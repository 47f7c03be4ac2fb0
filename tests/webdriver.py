"""A headless Chromium for tests, driven through Debian's chromedriver in the W3C's protocol."""

import base64
import http.client
import json
import shutil
import subprocess
from pathlib import Path

from tests.visdom_server import eventually, free_port

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")

NARROWEST_WINDOW = 500


def why_no_browser() -> str | None:
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} absent: apt-get install chromium chromium-driver" if absent else None


class Browser:
    """Use as a context: closes the browser at its end."""

    def __init__(self, width: int, height: int):
        self.width, self.height, self.port = width, height, free_port()

    def __enter__(self) -> "Browser":
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL)
        assert eventually(self._ready, 60)
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--window-size={self.width},{self.height}"]}
        # A phone's width is less than the narrowest window: it is emulated.
        if self.width < NARROWEST_WINDOW:
            options["mobileEmulation"] = {
                "deviceMetrics": {"width": self.width, "height": self.height, "pixelRatio": 1}
            }
        asked = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self.session = self._asked("POST", "/session", asked)["sessionId"]
        return self

    def __exit__(self, *error) -> None:
        try:
            self._asked("DELETE", f"/session/{self.session}")
        finally:
            self.driver.terminate()
            self.driver.wait()

    def open(self, address: str) -> None:
        self._asked("POST", f"/session/{self.session}/url", {"url": address})

    def run(self, script: str):
        """What the body of a function gives in the page."""
        return self._asked("POST", f"/session/{self.session}/execute/sync", {"script": script, "args": []})

    def click(self, x: float, y: float) -> None:
        moves = [
            {"type": "pointerMove", "duration": 0, "x": round(x) - 3, "y": round(y)},
            {"type": "pointerMove", "duration": 50, "x": round(x), "y": round(y)},
            {"type": "pause", "duration": 200},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._asked("POST", f"/session/{self.session}/actions", {"actions": [pointer]})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._asked("GET", f"/session/{self.session}/screenshot")))

    def _ready(self) -> bool:
        try:
            return self._asked("GET", "/status")["ready"]
        except OSError:
            return False

    def _asked(self, method: str, path: str, body: dict | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{answer['error']}: {answer['message']}")
        return answer
