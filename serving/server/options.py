"""What the operator chooses, with TensorFlow Serving's own flag names and defaults."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_PORT = 8500
HOST = "0.0.0.0"


@dataclass(frozen=True)
class ServerOptions:
    """Options of the model server; each field is the TensorFlow Serving flag of the same name.

    Args:
        model_base_path: directory that holds one directory with an integer name for each version of the model.
        model_name: the name that requests give.
        port: TCP port of the gRPC service on all interfaces; 0 takes a free one.
        file_system_poll_wait_seconds: seconds between looks for new versions; 0 looks only at the start.
        grpc_max_threads: requests answered at once; 0 means four for each CPU.
        max_num_load_retries: how often a version that failed to load is tried again with its files unchanged.
        load_retry_interval_micros: microseconds between those retries.
        shutdown_grace_seconds: how long requests in flight may take to finish once the server is told to stop
            (ours: TensorFlow Serving has no such flag).
    """

    model_base_path: str
    model_name: str = "default"
    port: int = DEFAULT_PORT
    file_system_poll_wait_seconds: float = 1.0
    grpc_max_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    shutdown_grace_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not self.model_base_path:
            raise ValueError("model_base_path: empty; expected the directory that holds the model's versions")
        if not self.model_name:
            raise ValueError("model_name: empty; expected the name that requests give")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port: found {self.port}; expected 0 to 65535")
        for name in (
            "file_system_poll_wait_seconds",
            "grpc_max_threads",
            "max_num_load_retries",
            "load_retry_interval_micros",
            "shutdown_grace_seconds",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: found {getattr(self, name)}; expected 0 or more")

    @property
    def threads(self) -> int:
        """How many requests are answered at once."""
        return self.grpc_max_threads or 4 * (os.cpu_count() or 1)


def parse_flags(argv: Sequence[str] | None) -> ServerOptions:
    """Options from the command line; `argv` None reads the process's own.

    Raises:
        SystemExit: a flag is unknown, missing or malformed (argparse prints which); `--help` was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="twotower-model-server",
        description="Serves SavedModels over TensorFlow Serving's gRPC protocol.",
        allow_abbrev=False,
    )
    defaults = ServerOptions(model_base_path="unset")

    def add(name: str, kind: type, text: str) -> None:
        parser.add_argument(f"--{name}", type=kind, default=getattr(defaults, name), help=f"{text} (%(default)s)")

    parser.add_argument("--model_base_path", required=True, help="directory of the model's versions")
    add("model_name", str, "name that requests give")
    add("port", int, "TCP port of the gRPC service, 0 for a free one")
    add("file_system_poll_wait_seconds", float, "seconds between looks for new versions, 0 for only one look")
    add("grpc_max_threads", int, "requests answered at once, 0 for four a CPU")
    add("max_num_load_retries", int, "retries of a version that failed to load")
    add("load_retry_interval_micros", int, "microseconds between those retries")
    add("shutdown_grace_seconds", float, "seconds that requests in flight have to finish at shutdown")
    try:
        return ServerOptions(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(f"--{error}")
