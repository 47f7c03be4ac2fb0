"""A real visdom server for tests: started on a free port, asked what it holds, killed and started again."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(ask, seconds: float = 20):
    """What ``ask`` gives once it is true, or the last it gave."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


class VisdomServer:
    def __init__(self, folder: Path, scripts: Path | None = None):
        self.port, self.folder, self.scripts = free_port(), folder, scripts
        self.process: subprocess.Popen | None = None

    def start(self) -> "VisdomServer":
        command = [
            sys.executable,
            "-m",
            "utils.visdom_server",
            "--port",
            str(self.port),
            "--env-path",
            str(self.folder),
        ]
        command += [] if self.scripts is None else ["--scripts", str(self.scripts)]
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A shell starts what runs in its background with Ctrl-C ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert eventually(self.answers, 60), "the visdom server did not start"
        return self

    def answers(self) -> bool:
        try:
            self.asked("env_state", {})
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Ends it without a chance to save anything."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def asked(self, endpoint: str, message: dict) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", f"/{endpoint}", json.dumps(message))
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def environments(self) -> set[str]:
        return set(json.loads(self.asked("env_state", {}))) - {"main"}

    def windows(self, environment: str) -> dict[str, dict]:
        """Every window of an environment by its name; none where the environment is not there."""
        if environment not in self.environments():
            return {}
        return json.loads(self.asked("win_data", {"win": None, "eid": environment}))
