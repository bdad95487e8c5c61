"""What the operator chooses, with TensorFlow Serving's own flag names and defaults."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields

DEFAULT_PORT = 8500
HOST = "0.0.0.0"

# Flags of TensorFlow Serving that have no meaning here (another runtime, GPUs, thread pools that this server does not
# have). They are accepted, so that a command line written for it starts, and a line in the log says so.
WITHOUT_EFFECT = (
    "enable_model_warmup",
    "enable_per_model_metrics",
    "enable_profiler",
    "enable_signature_method_name_check",
    "flush_filesystem_caches",
    "grpc_channel_arguments",
    "mixed_precision",
    "num_load_threads",
    "num_request_iterations_for_warmup",
    "num_unload_threads",
    "per_process_gpu_memory_fraction",
    "platform_config_file",
    "prefer_tflite_model",
    "remove_unused_fields_from_bundle_metagraph",
    "rest_api_num_threads",
    "skip_initialize_tpu",
    "tensorflow_session_config_file",
    "thread_pool_factory_config_file",
    "total_model_memory_limit_bytes",
    "use_alts_credentials",
    "use_tflite_model",
    "xla_cpu_compilation_enabled",
)


@dataclass(frozen=True)
class ServerOptions:
    """Options of the model server; a field is the TensorFlow Serving flag of the same name unless it says "ours".

    Args:
        model_base_path: directory that holds one directory with an integer name for each version of the model.
        model_config_file: text `ModelServerConfig` with all models; instead of the model's name and base path.
        model_config_file_poll_wait_seconds: seconds between reads of that file; 0 reads it only at the start.
        model_name: the name that requests give.
        port: TCP port of the gRPC service on all interfaces; 0 takes a free one.
        grpc_socket_path: path of a Unix socket on which gRPC is served besides.
        rest_api_port: TCP port of the REST service on all interfaces; 0 does not serve it.
        rest_api_timeout_in_ms: milliseconds until a REST request is answered 504.
        rest_api_enable_cors_support: whether replies allow scripts of other origins.
        file_system_poll_wait_seconds: seconds between looks for new versions; 0 looks only at the start.
        allow_version_labels_for_unavailable_models: whether a label may name a version that is not available.
        monitoring_config_file: text `MonitoringConfig`; turns Prometheus's page on.
        ssl_config_file: text `SSLConfig` with PEM contents; gRPC is then TLS only.
        enable_batching: whether requests that wait are run together.
        batching_parameters_file: text `BatchingParameters`.
        saved_model_tags: comma-separated tags of the meta graph to load.
        tensorflow_intra_op_parallelism: threads of one operation; 0 leaves it to TensorFlow.
        tensorflow_inter_op_parallelism: operations of a request run at once; 0 leaves it to TensorFlow.
        tensorflow_session_parallelism: both of the former.
        enable_grpc_healthcheck_service: whether the standard health service answers (here by default).
        grpc_max_threads: requests answered at once; 0 means four for each CPU.
        max_num_load_retries: how often a version that failed to load is tried again with its files unchanged.
        load_retry_interval_micros: microseconds between those retries.
        max_queued_requests: inference requests that may wait or run; one more is answered RESOURCE_EXHAUSTED (ours).
        auth_token_file: file with the bearer token that requests must carry (ours).
        shutdown_grace_seconds: how long requests in flight may take to finish once the server is told to stop (ours).
        ignored_flags: names of flags that were given and have no effect here.
    """

    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: float = 0.0
    model_name: str = "default"
    port: int = DEFAULT_PORT
    grpc_socket_path: str = ""
    rest_api_port: int = 0
    rest_api_timeout_in_ms: int = 30_000
    rest_api_enable_cors_support: bool = False
    file_system_poll_wait_seconds: float = 1.0
    allow_version_labels_for_unavailable_models: bool = False
    monitoring_config_file: str = ""
    ssl_config_file: str = ""
    enable_batching: bool = False
    batching_parameters_file: str = ""
    saved_model_tags: str = "serve"
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    tensorflow_session_parallelism: int = 0
    enable_grpc_healthcheck_service: bool = True
    grpc_max_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    max_queued_requests: int = 1_000
    auth_token_file: str = ""
    shutdown_grace_seconds: float = 30.0
    ignored_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.model_config_file:
            if not self.model_base_path:
                raise ValueError("model_base_path: empty; expected the directory that holds the model's versions")
            if not self.model_name:
                raise ValueError("model_name: empty; expected the name that requests give")
        for name in ("port", "rest_api_port"):
            if not 0 <= getattr(self, name) < 65536:
                raise ValueError(f"{name}: found {getattr(self, name)}; expected 0 to 65535")
        if self.rest_api_port and self.rest_api_port == self.port:
            raise ValueError(f"rest_api_port: found {self.port}, which is --port; expected another one")
        if self.batching_parameters_file and not self.enable_batching:
            raise ValueError("batching_parameters_file: set; expected --enable_batching with it")
        if self.max_queued_requests < 1:
            raise ValueError(f"max_queued_requests: found {self.max_queued_requests}; expected 1 or more")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{field.name}: found {value}; expected 0 or more")

    @property
    def threads(self) -> int:
        """How many requests are answered at once."""
        return self.grpc_max_threads or 4 * (os.cpu_count() or 1)


_HELP = {
    "model_base_path": "directory of the model's versions",
    "model_config_file": "text ModelServerConfig with all models",
    "model_config_file_poll_wait_seconds": "seconds between reads of that file, 0 for only one",
    "model_name": "name that requests give",
    "port": "TCP port of the gRPC service, 0 for a free one",
    "grpc_socket_path": "Unix socket of the gRPC service, besides",
    "rest_api_port": "TCP port of the REST service, 0 for none",
    "rest_api_timeout_in_ms": "milliseconds until a REST request is given up",
    "rest_api_enable_cors_support": "let scripts of other origins call REST",
    "file_system_poll_wait_seconds": "seconds between looks for new versions, 0 for only one look",
    "allow_version_labels_for_unavailable_models": "let a label name a version that is not available",
    "monitoring_config_file": "text MonitoringConfig",
    "ssl_config_file": "text SSLConfig with PEM contents",
    "enable_batching": "run requests that wait together",
    "batching_parameters_file": "text BatchingParameters",
    "saved_model_tags": "comma-separated tags of the meta graph",
    "tensorflow_intra_op_parallelism": "threads of one operation",
    "tensorflow_inter_op_parallelism": "operations of a request run at once",
    "tensorflow_session_parallelism": "both of the former",
    "enable_grpc_healthcheck_service": "answer the standard health service",
    "grpc_max_threads": "requests answered at once, 0 for four a CPU",
    "max_num_load_retries": "retries of a version that failed to load",
    "load_retry_interval_micros": "microseconds between those retries",
    "max_queued_requests": "inference requests that may wait or run",
    "auth_token_file": "file with the bearer token that requests must carry",
    "shutdown_grace_seconds": "seconds that requests in flight have to finish at shutdown",
}


def parse_flags(argv: Sequence[str] | None) -> ServerOptions:
    """Options from the command line; `argv` None reads the process's own.

    Raises:
        SystemExit: a flag is unknown, missing or malformed (argparse prints which); `--help` was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="twotower-model-server",
        description="Serves SavedModels over TensorFlow Serving's gRPC and REST protocols.",
        epilog=f"Accepted without effect: {', '.join(WITHOUT_EFFECT)}.",
        allow_abbrev=False,
    )
    for field in [field for field in fields(ServerOptions) if field.name in _HELP]:
        text = f"{_HELP[field.name]} (%(default)s)"
        if field.type is bool:
            parser.add_argument(
                f"--{field.name}",
                type=_boolean,
                nargs="?",
                const=True,
                default=field.default,
                metavar="BOOL",
                help=text,
            )
        else:
            parser.add_argument(f"--{field.name}", type=field.type, default=field.default, help=text)
    for name in WITHOUT_EFFECT:
        parser.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
    given = vars(parser.parse_args(argv))
    ignored = tuple(name for name in WITHOUT_EFFECT if given.pop(name) is not None)
    try:
        return ServerOptions(**given, ignored_flags=ignored)
    except ValueError as error:
        parser.error(f"--{error}")


def _boolean(text: str) -> bool:
    """TensorFlow's own spelling of a flag's value."""
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
