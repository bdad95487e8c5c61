"""Who trains together, as ``TF_CONFIG`` says: TensorFlow's own standard, which Kubeflow's training operator sets."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from twotower.features.errors import InputError

PARAMETER_SERVER = "ps"
JOBS = ("chief", "worker", PARAMETER_SERVER)
EXAMPLE = '{"cluster": {"chief": ["host:2222"], "worker": ["host:2222"]}, "task": {"type": "chief", "index": 0}}'
# Seconds until a host that does not answer counts as absent.
CONNECT = 5.0


class ClusterError(RuntimeError):
    """A process of the cluster is missing or was lost, so that training cannot go on."""


@dataclass(frozen=True)
class Cluster:
    """Addresses by job, and which of them this process is.

    Attributes:
        jobs: ``chief``, ``worker`` and ``ps`` to addresses ``host:port``; a job may be missing.
        job: this process's.
        index: this process's, in its job.
    """

    jobs: Mapping[str, list[str]]
    job: str
    index: int

    @classmethod
    def of_environment(cls) -> Cluster:
        """The cluster of the environment variable ``TF_CONFIG``.

        Raises:
            InputError: it is missing or malformed.
        """
        text = os.environ.get("TF_CONFIG", "")
        if not text:
            raise InputError(f"TF_CONFIG: not set, expected the cluster's addresses, such as {EXAMPLE}")
        try:
            config = json.loads(text)
            jobs = {job: [str(address) for address in found] for job, found in config["cluster"].items() if job in JOBS}
            job, index = str(config["task"]["type"]), int(config["task"]["index"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"TF_CONFIG: found {text}, expected a cluster and a task, such as {EXAMPLE}") from None
        if index not in range(len(jobs.get(job, []))):
            raise InputError(f"TF_CONFIG: the task is {job} {index}, expected one that the cluster has an address for")
        if "chief" not in jobs and (PARAMETER_SERVER in jobs or "worker" not in jobs):
            raise InputError("TF_CONFIG: the cluster has no chief, expected its address")
        if PARAMETER_SERVER in jobs and "worker" not in jobs:
            raise InputError("TF_CONFIG: the cluster has parameter servers but no worker, expected one at least")
        return cls(jobs, job, index)

    @property
    def strategy(self) -> Literal["multi_worker", "parameter_server"]:
        """What such a cluster is for: whoever has parameter servers wants them used."""
        return "parameter_server" if PARAMETER_SERVER in self.jobs else "multi_worker"

    @property
    def chief(self) -> str:
        """Address of the process that writes the model: the first worker, where there is no chief."""
        return self.jobs.get("chief", self.jobs.get("worker", []))[0]

    @property
    def is_chief(self) -> bool:
        """Whether this process is it."""
        return self.jobs[self.job][self.index] == self.chief

    @property
    def name(self) -> str:
        """This process in messages."""
        return f"{self.job} {self.index}"

    def check_strategy(self, expected: str) -> None:
        """Raise InputError where the spec asks for the other strategy."""
        if self.strategy != expected:
            raise InputError(
                f"retrieval.distribution.strategy: found {expected}, but TF_CONFIG has the jobs "
                f"{', '.join(sorted(self.jobs))}: expected ps among them for parameter_server alone"
            )

    def check_chief(self) -> None:
        """Raise InputError where another process has to run the pipeline."""
        if not self.is_chief:
            raise InputError(
                f"TF_CONFIG: this is {self.name}, expected the chief ({self.chief}), which runs the pipeline; "
                "the others run `twotower worker`"
            )


def answers(address: str) -> bool:
    """Whether a process listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT):
            return True
    except OSError:
        return False


def wait_for(address: str, who: str, seconds: float) -> None:
    """Return as soon as a process listens at the address.

    Raises:
        ClusterError: none does for so long.
    """
    until = time.monotonic() + seconds
    while not answers(address):
        if time.monotonic() > until:
            raise ClusterError(f"{who} at {address} did not answer for {seconds:.0f} seconds")
        time.sleep(0.5)
