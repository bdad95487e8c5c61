"""The model server's command line: checks what can be checked at once, then loads, serves, and stops cleanly."""

import gc
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

from twotower.serving.server.errors import StartupError
from twotower.serving.server.options import HOST, ServerOptions, parse_flags
from twotower.serving.server.versions import is_remote, version_directories

LOGGER = logging.getLogger("twotower.serving.server")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `twotower-model-server`; returns the exit code."""
    return serve(parse_flags(argv))


def serve(options: ServerOptions) -> int:
    """Serves until SIGTERM or SIGINT; call it from the main thread.

    Returns 0 after a stop that was asked for, and 1 after one line on stderr when the server could not start.
    """
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    _log_to_stderr()
    if options.ignored_flags:
        LOGGER.warning("without effect here: %s", ", ".join(f"--{name}" for name in options.ignored_flags))
    try:
        if not options.model_config_file:
            _check_base_path(options.model_base_path)
        for port in {options.port, options.rest_api_port} - {0}:
            _check_port(port)
        token = _token(options.auth_token_file)
        _run(options, token, stop)
    except StartupError as error:
        print(f"twotower-model-server: {error}", file=sys.stderr)
        return 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _run(options: ServerOptions, token: str, stop: threading.Event) -> None:
    # TensorFlow reads this when it is imported, so the modules that import it are imported only here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # One of TensorFlow's dependencies tells every user of Python 3.11 when it will stop supporting it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.api_core")
    without_keras = _WithoutKeras()
    sys.meta_path.insert(0, without_keras)
    try:
        import uvloop

        from twotower.serving.server.servable import register_scann_ops
        from twotower.serving.server.server import Server

        register_scann_ops()
    finally:
        sys.meta_path.remove(without_keras)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # The modules live as long as the process: the collections after each unload need not walk through them.
    gc.freeze()
    uvloop.run(Server(options, token).run(stop))


class _WithoutKeras(MetaPathFinder):
    """Keeps TensorFlow from importing Keras, to register optimizers: half of a start, and no server trains."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Says that Keras is empty, which TensorFlow is prepared for, and nothing about other modules."""
        if name.startswith(("keras.", "tf_keras.")):
            raise ModuleNotFoundError(f"{name} is not imported into the server", name=name)


def _check_base_path(base_path: str) -> None:
    """Fails at once, before TensorFlow's seconds of import, when there is nothing to load."""
    if is_remote(base_path):
        return
    expected = "expected a directory that holds a directory with an integer name for each version, such as 1/"
    try:
        found = version_directories(base_path)
    except OSError as error:
        raise StartupError(f"model base path {base_path}: {error.strerror}; {expected}") from error
    if not found:
        raise StartupError(f"model base path {base_path}: no version found; {expected}")


def _check_port(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As gRPC binds it: connections of a server that has just ended do not count as use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StartupError(f"port {port} cannot be bound on {HOST}: {error.strerror}") from error


def _token(path: str) -> str:
    if not path:
        return ""
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--auth_token_file={path}: {getattr(error, 'strerror', None) or error}") from error
    if not token:
        raise StartupError(f"--auth_token_file={path}: empty; expected a token")
    return token


def _log_to_stderr() -> None:
    """Shows the server's own log lines, unless the program that called `serve` has set up logging itself."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    LOGGER.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
