"""Starts the visdom server without its download, for this machine alone.

    python -m utils.visdom_server                      at http://localhost:8097, as `visdom` does
    python -m utils.visdom_server --npm                gets the page's scripts with npm first
    python -m utils.visdom_server --env-path save/run/visdom    shows a run that is over

`visdom` itself gets its page's scripts from the internet at its first start, and ends with a traceback without one.
This starts the same server as it is, and says which scripts the page lacks and where to put them.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

# visdom imports torch where it is there, for its client alone: without it the server starts ten times as fast.
sys.modules.setdefault("torch", None)

import tornado.ioloop  # noqa: E402
import tornado.web  # noqa: E402
from visdom.server import app  # noqa: E402
from visdom.server.defaults import DEFAULT_ENV_PATH, DEFAULT_PORT  # noqa: E402
from visdom.utils.shared_utils import get_visdom_path  # noqa: E402

from utils.command import module_parser, run_command  # noqa: E402
from utils.errors import OptionError  # noqa: E402
from utils.visdom_scripts import fetch_with_npm, missing_files  # noqa: E402

HOST = "127.0.0.1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until Ctrl-C; returns the exit status."""
    parser = module_parser("utils.visdom_server", __doc__)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s")
    parser.add_argument(
        "--env-path", default=DEFAULT_ENV_PATH, metavar="DIR", help="saved windows; default: %(default)s"
    )
    parser.add_argument(
        "--scripts", type=Path, metavar="DIR", help="where more of the page's scripts are, in js/ css/ fonts/"
    )
    parser.add_argument("--npm", action="store_true", help="get the scripts that are missing with npm, into --scripts")
    return run_command(parser, arguments, _run)


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
            serve(options.port, options.env_path, scripts)
        except OSError as error:
            raise OptionError(f"--port {options.port}: {error.strerror}: try another one") from error


def serve(port: int, env_path: str, scripts: Path) -> None:
    """Serves on this machine alone; scripts are looked for in visdom's own folder, then in ``scripts``."""
    missing = missing_files(Path(get_visdom_path("static")), scripts)
    if missing:
        print(f"The page stays empty until these are in {scripts}:", file=sys.stderr)
        for file in missing:
            print(f"  {file.target:<44} is {file.path} of the npm package {file.package}", file=sys.stderr)
        print("With npm at hand: python -m utils.visdom_server --npm", file=sys.stderr)
    app.tornado_settings["static_handler_class"] = _handler_for(scripts)
    application = app.Application(port=port, env_path=str(env_path))
    application.settings["autoreload"] = False
    application.listen(port, max_buffer_size=1024**3, address=HOST)
    print(f"visdom: http://localhost:{port}", file=sys.stderr, flush=True)
    tornado.ioloop.IOLoop.current().start()


def _handler_for(scripts: Path) -> type[tornado.web.StaticFileHandler]:
    """A handler of static files that also looks into ``scripts``."""

    class Scripts(tornado.web.StaticFileHandler):
        @classmethod
        def get_absolute_path(cls, root: str, path: str) -> str:
            own = super().get_absolute_path(root, path)
            return own if Path(own).is_file() else super().get_absolute_path(str(scripts.resolve()), path)

        @classmethod
        def get_version(cls, settings: dict, path: str) -> str | None:
            # visdom's page asks for the address of "../user/style.css", which Tornado 6.6 and newer refuse to look up.
            return None if path.startswith("../") else super().get_version(settings, path)

        def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
            inside = Path(absolute_path).is_relative_to(scripts.resolve())
            return super().validate_absolute_path(str(scripts.resolve()) if inside else root, absolute_path)

    return Scripts


if __name__ == "__main__":
    sys.exit(main())
