"""The server as a whole: what its options ask for is put together, started, and stopped in order."""

import asyncio
import logging
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twotower.serving.server.batching import Batcher, batching_options
from twotower.serving.server.config_protos import (
    BatchingParameters,
    ModelServerConfig,
    MonitoringConfig,
    SSLConfig,
    read_text_proto,
)
from twotower.serving.server.core import Core
from twotower.serving.server.errors import ServingError, StartupError
from twotower.serving.server.grpc_server import GrpcServer
from twotower.serving.server.lifecycle import LoadOptions
from twotower.serving.server.manager import ModelManager
from twotower.serving.server.metrics import Metrics
from twotower.serving.server.model_config import PLATFORM, logs_of, models_of
from twotower.serving.server.model_service import ModelService
from twotower.serving.server.options import HOST, ServerOptions
from twotower.serving.server.request_log import RequestLog
from twotower.serving.server.rest import RestServer
from twotower.serving.server.rpc import Token
from twotower.serving.server.servable import SessionOptions

LOGGER = logging.getLogger(__name__)

DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"
# RPCs that may be open beyond the inference requests that may wait: status, metadata, health watches.
SPARE_RPCS = 1_000
# A thread that loads a version gives way to those that answer after this long, not after Python's 5 ms.
SWITCH_SECONDS = 0.5e-3


class Server:
    """A model server.

    Args:
        options: what the operator chose.
        token: bearer token that requests must carry; empty for none.

    Raises:
        StartupError: a file that an option names cannot be read or used.
    """

    def __init__(self, options: ServerOptions, token: str) -> None:
        self._options = options
        self._config = _model_server_config(options)
        self._ssl = _read("ssl_config_file", options.ssl_config_file, SSLConfig)
        monitoring = _read("monitoring_config_file", options.monitoring_config_file, MonitoringConfig)
        self._metrics_path = None
        if monitoring is not None and monitoring.prometheus_config.enable:
            self._metrics_path = monitoring.prometheus_config.path or DEFAULT_METRICS_PATH
        self._token = Token(token)
        self._metrics = Metrics()
        self._log = RequestLog(self._metrics)
        self._executor = ThreadPoolExecutor(options.threads, thread_name_prefix="inference")
        # Loads and reloads, which must not wait behind requests.
        self._admin = ThreadPoolExecutor(2, thread_name_prefix="admin")
        self._manager = ModelManager(options.file_system_poll_wait_seconds, _load_options(options), self._loaded)
        batcher = None
        if options.enable_batching:
            parameters = _read("batching_parameters_file", options.batching_parameters_file, BatchingParameters)
            batcher = Batcher(batching_options(parameters or BatchingParameters(), options.threads), self._executor)
        self._core = Core(self._manager, self._executor, options.max_queued_requests, self._metrics, self._log, batcher)

    async def run(self, stop: threading.Event) -> None:
        """Loads, serves until SIGTERM, SIGINT or `stop`, then finishes what is under way.

        Raises:
            StartupError: the models or the ports cannot be served.
        """
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        if stop.is_set():  # the signal came while TensorFlow was imported
            stopping.set()
        sys.setswitchinterval(SWITCH_SECONDS)
        poller = None
        try:
            first_load = loop.run_in_executor(self._admin, self._configure, self._config)
            waiting = asyncio.ensure_future(stopping.wait())
            either: list[asyncio.Future[Any]] = [first_load, waiting]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if stopping.is_set():
                return
            try:
                await first_load
            except ServingError as error:
                raise StartupError(error.message) from error
            self._manager.start()
            if self._options.model_config_file and self._options.model_config_file_poll_wait_seconds:
                poller = asyncio.ensure_future(self._poll_config())
            await self._serve_until(stopping)
        finally:
            if poller is not None:
                poller.cancel()
            self._executor.shutdown(wait=False, cancel_futures=True)
            await loop.run_in_executor(None, self._manager.close)
            self._log.close()

    async def _serve_until(self, stopping: asyncio.Event) -> None:
        options = self._options
        server = GrpcServer(
            self._core,
            ModelService(self._manager, self._reload),
            self._token,
            options.max_queued_requests + SPARE_RPCS,
            options.enable_grpc_healthcheck_service,
        )
        rest = RestServer(
            self._core,
            self._token,
            options.rest_api_timeout_in_ms / 1000,
            self._metrics_path,
            options.rest_api_enable_cors_support,
            options.shutdown_grace_seconds,
        )
        port = server.listen_on_port(options.port, self._ssl)
        if options.grpc_socket_path:
            server.listen(f"unix:{options.grpc_socket_path}")
        if options.rest_api_port:
            await rest.start(options.rest_api_port)
        await server.start()
        print(f"serving {self._served()} on {HOST}:{port}", flush=True)
        await stopping.wait()
        await asyncio.gather(server.stop(options.shutdown_grace_seconds), rest.stop())

    def _served(self) -> str:
        names = self._manager.names()
        if len(names) == 1:
            versions = self._manager.available_versions(names[0])
            return f"{names[0]} version {versions[-1]}"
        return ", ".join(names) or "no model"

    def _configure(self, config: Any) -> None:
        models, logs = models_of(config), logs_of(config)
        self._log.configure(logs)
        self._manager.configure(models)

    async def _reload(self, config: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._admin, self._configure, config)

    async def _poll_config(self) -> None:
        while True:
            await asyncio.sleep(self._options.model_config_file_poll_wait_seconds)
            try:
                config = _model_server_config(self._options)
                if config != self._config:
                    LOGGER.info("%s has changed", self._options.model_config_file)
                    self._config = config
                    await self._reload(config)
            except (StartupError, ServingError) as error:
                LOGGER.error("the changed model configuration is not wholly in force: %s", error)

    def _loaded(self, path: str, seconds: float, error: ServingError | None) -> None:
        self._metrics.load_attempts.add(path, "fail" if error else "success")
        if error is None:
            self._metrics.load_latency.add(path, amount=round(seconds * 1e6))


def _read(flag: str, path: str, message_type: Any) -> Any:
    return read_text_proto(flag, path, message_type) if path else None


def _model_server_config(options: ServerOptions) -> Any:
    if options.model_config_file:
        return read_text_proto("model_config_file", options.model_config_file, ModelServerConfig)
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform=PLATFORM
    )
    return config


def _load_options(options: ServerOptions) -> LoadOptions:
    parallelism = options.tensorflow_session_parallelism
    return LoadOptions(
        session=SessionOptions(
            tags=tuple(options.saved_model_tags.split(",")),
            intra_op_threads=options.tensorflow_intra_op_parallelism or parallelism,
            inter_op_threads=options.tensorflow_inter_op_parallelism or parallelism,
        ),
        max_retries=options.max_num_load_retries,
        retry_seconds=options.load_retry_interval_micros / 1e6,
        labels_may_wait=options.allow_version_labels_for_unavailable_models,
    )
