"""Starts the visdom server without its download, for this machine alone.

    python -m utils.visdom_server                      at http://localhost:8097, as `visdom` does
    python -m utils.visdom_server --npm                downloads the page's scripts with npm first
    python -m utils.visdom_server --env-path save/run/visdom    shows a finished run

`visdom` itself gets its page's scripts from the internet at its first start, and ends with a traceback without one.
This starts the same server, and says which scripts the page lacks and where to put them. A history of pictures is kept
whole, of which `visdom` 0.3 keeps the last 4.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.command import module_parser, run_command, run_program
from utils.errors import OptionError
from utils.modules import left_out
from utils.visdom_scripts import fetch_with_npm, missing_files
from utils.visdom_settings import HOST, LONGEST_HISTORY

MISSING = 'visdom is not installed: pip install visdom "tornado<6.6"'

_OWN_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


try:
    import tornado.ioloop
    import tornado.web
    from tornado.httputil import HTTPHeaders, HTTPServerRequest

    # visdom imports these where they are there, for its client alone: without them the server starts ten times as fast.
    with left_out("torch", "openTSNE"):
        from visdom.server import app
        from visdom.server.defaults import DEFAULT_ENV_PATH, DEFAULT_PORT
        from visdom.utils.shared_utils import get_visdom_path
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    print(f"utils.visdom_server: error: {MISSING}", file=sys.stderr)
    sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until Ctrl-C; returns the exit status."""
    parser = module_parser("utils.visdom_server", __doc__)
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="default: %(default)s")
    parser.add_argument(
        "--env-path", default=DEFAULT_ENV_PATH, metavar="DIR", help="folder of saved windows; default: %(default)s"
    )
    parser.add_argument(
        "--scripts", type=Path, metavar="DIR", help="folder with more of the page's scripts, in js/ css/ fonts/"
    )
    parser.add_argument("--npm", action="store_true", help="download missing scripts with npm into --scripts")
    return run_command(parser, arguments, _run)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:  # a larger one would be cut to another, without a word
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 to 65535, such as {DEFAULT_PORT}")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    static = Path(get_visdom_path("static"))
    scripts = options.scripts or static
    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        try:
            if options.npm and missing_files(static, scripts):
                fetch_with_npm(scripts)
        except OSError as error:
            raise OptionError(
                f"--scripts {scripts}: cannot be written to ({error.strerror}): expected a folder such as save/visdom"
            ) from error
        try:
            Path(options.env_path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(
                f"--env-path {options.env_path}: cannot be made ({error.strerror}): "
                "expected a folder such as save/run/visdom"
            ) from error
        try:
            serve(options.port, options.env_path, scripts)
        except OSError as error:
            raise OptionError(f"--port {options.port}: {error.strerror}: try another one") from error


def serve(port: int, env_path: str, scripts: Path) -> None:
    """Serves on the loopback interface; looks for scripts in visdom's own folder, then in ``scripts``."""
    missing = missing_files(Path(get_visdom_path("static")), scripts)
    if missing:
        print(f"The page stays empty until these are in {scripts}:", file=sys.stderr)
        for file in missing:
            print(f"  {file.target:<44} is {file.path} of the npm package {file.package}", file=sys.stderr)
        print("With npm at hand: python -m utils.visdom_server --npm", file=sys.stderr)
    app.tornado_settings["static_handler_class"] = _handler_for(scripts)
    application = _Application(port=port, env_path=str(env_path))
    application.settings["autoreload"] = False
    application.settings["serve_traceback"] = False  # whoever asks learns nothing of this machine
    # visdom 0.3 makes a pane as wide as its title, over the panes beside it; the page reads these styles last.
    application.user_settings["user_css"] += "\n.react-grid-item { min-width: 0; }\n"
    application.listen(port, max_buffer_size=1024**3, address=HOST)
    print(f"visdom: http://localhost:{port}", file=sys.stderr, flush=True)
    tornado.ioloop.IOLoop.current().start()


class _Application(app.Application):
    """visdom's, for its own page alone, and with long histories of pictures: visdom 0.3 keeps 4 by itself, 0.2 all."""

    def __init__(self, port: int, env_path: str) -> None:
        super().__init__(port=port, env_path=env_path)
        self.max_image_history = LONGEST_HISTORY

    def find_handler(self, request: HTTPServerRequest, **named: Any) -> Any:
        """The handler of a request; refuses those that pages of other sites send, WebSockets too."""
        if _is_own(request.headers):
            return super().find_handler(request, **named)
        return self.get_handler_delegate(request, tornado.web.ErrorHandler, {"status_code": 403})


def _is_own(headers: HTTPHeaders) -> bool:
    """Whether a request is for this machine by name, and from a page of this server or from no page.

    A page of another site has another ``Origin``; a name of another site that resolves to this machine is another
    ``Host``. Any port will do, as a tunnel may have its own.
    """
    hosts = headers.get_list("Host")
    if len(hosts) > 1 or (hosts and not _OWN_HOST.fullmatch(hosts[0])):
        return False
    origins = headers.get_list("Origin") + headers.get_list("Sec-WebSocket-Origin")
    return all(
        hosts and origin.lower() in (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}") for origin in origins
    )


def _handler_for(scripts: Path) -> type[tornado.web.StaticFileHandler]:
    """A handler of static files that also looks in ``scripts``."""

    class Scripts(tornado.web.StaticFileHandler):
        @classmethod
        def get_absolute_path(cls, root: str, path: str) -> str:
            own = super().get_absolute_path(root, path)
            return own if Path(own).is_file() else super().get_absolute_path(str(scripts.resolve()), path)

        @classmethod
        def get_version(cls, settings: dict, path: str) -> str | None:
            # visdom's page requests "../user/style.css", which Tornado 6.6 and newer refuse to look up.
            return None if path.startswith("../") else super().get_version(settings, path)

        def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
            inside = Path(absolute_path).is_relative_to(scripts.resolve())
            return super().validate_absolute_path(str(scripts.resolve()) if inside else root, absolute_path)

    return Scripts


if __name__ == "__main__":
    run_program(main)
