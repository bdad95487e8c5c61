"""Beam on a Dask cluster: Beam's SDK workers are Dask's tasks, and its Fn API runner here hands them their bundles.

Beam's own ``DaskRunner`` (2.61) turns a pipeline into Dask bags, which know no side inputs, no tagged outputs
and no bundles; Ingest, TFDV, tf.Transform and TFMA need all three. Here the work is done as with several direct
workers, but for where they are: each thread of the cluster holds one, as a process of its own. What is shuffled
goes through this process, and files through a file system that all machines share.
"""

from __future__ import annotations

import contextlib
import sys
import threading

from apache_beam import Pipeline
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.dask.dask_runner import DaskOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    GrpcServer,
    GrpcWorkerHandler,
    StateServicer,
    WorkerHandler,
)
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker
from apache_beam.runners.runner import PipelineResult, PipelineRunner
from apache_beam.transforms import environments
from dask import distributed
from distributed.comm import get_address_host
from distributed.utils import get_ip

from twotower.features.errors import InputError

URN = "twotower:env:dask:v1"
# Seconds: for a cluster whose workers are still starting, and for SDK workers to leave their threads again.
PATIENCE = 60


class DaskRunner(PipelineRunner):
    """Runs a pipeline on the cluster that Beam's ``--dask_...`` options name, or on a new one of this machine."""

    def run_pipeline(self, pipeline: Pipeline, options: PipelineOptions) -> PipelineResult:
        """Run it to its end.

        Raises:
            InputError: there is no such cluster, or it has no worker.
        """
        given = options.view_as(DaskOptions).get_all_options(drop_default=True)
        names = {"address", "timeout", "scheduler_file", "name", "connection_limit"}
        try:
            client = distributed.Client(**{name: value for name, value in given.items() if name in names})
        except (OSError, ValueError) as error:
            raise InputError(f"Dask: no scheduler at {given.get('address') or 'this machine'}: {error}") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError:
                raise InputError(f"Dask: the scheduler {client.scheduler.address} has no worker") from None
            options.view_as(DirectOptions).direct_num_workers = sum(client.nthreads().values())
            return FnApiRunner(default_environment=_DaskEnvironment()).run_pipeline(pipeline, options)


@environments.Environment.register_urn(URN, None)
class _DaskEnvironment(environments.Environment):
    """Says in the pipeline's description that its functions run in SDK workers on the current Dask client's cluster."""

    def to_runner_api_parameter(self, context: object) -> tuple[str, None]:
        return URN, None

    @staticmethod
    def from_runner_api_parameter(*_: object) -> _DaskEnvironment:
        return _DaskEnvironment()


@WorkerHandler.register_environment(URN, None)
class _DaskWorker(GrpcWorkerHandler):
    """One SDK worker: a process that takes a thread of the cluster for as long as the pipeline runs."""

    def __init__(
        self, payload: None, state: StateServicer, provision_info: ExtendedProvisionInfo, grpc_server: GrpcServer
    ) -> None:
        self._client = distributed.Client.current()
        self._closed = threading.Event()
        super().__init__(state, provision_info, grpc_server)

    def start_worker(self) -> None:
        provision = self.provision_info.provision_info.SerializeToString()
        self._task = self._client.submit(_work, self.control_address, provision, self.worker_id, pure=False)
        self._watcher = threading.Thread(target=self._watch, name=f"watch_{self.worker_id}", daemon=True)
        self._watcher.start()

    def stop_worker(self) -> None:
        self._closed.set()
        self._watcher.join()
        distributed.wait(self._task, timeout=PATIENCE)

    def host_from_worker(self) -> str:
        return str(get_ip(get_address_host(self._client.scheduler.address)))

    def _watch(self) -> None:
        """Make what Beam asks of a worker that is lost fail, which it would wait for forever."""
        reader = self.control_conn._read_thread  # lives as long as the worker's connection
        while not self._closed.wait(1):
            if self._task.status == "error" or (reader.ident is not None and not reader.is_alive()):
                # The other threads add requests: one more second for those that come in between.
                with contextlib.suppress(RuntimeError):
                    self.control_conn.abort(ConnectionError(f"Dask: lost the Beam worker {self.worker_id}"))


def _work(control_address: str, provision: bytes, worker_id: str) -> None:
    """On a Dask worker: an SDK worker until its pipeline ends."""
    provision_info = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo.FromString(provision))
    command = f"exec {sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
    SubprocessSdkWorker(command.encode(), control_address, provision_info, worker_id).run()
