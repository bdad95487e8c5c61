"""A process of its own for this machine's part in a cluster's training: it ends with its parent, and frees its port.

TensorFlow joins a cluster at the start of a process or never, and leaves it at the end; the pipeline lives on.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

from twotower.features.errors import InputError
from twotower.models.cluster import ClusterError

progress = logging.getLogger("twotower.progress")

# In the cluster's folder, which all its machines see under the same path.
TASK_FILE = "retrieval_task.json"
BAD_INPUT = 2


def take_part(task: Path, wait: float) -> None:
    """Do what ``TF_CONFIG`` makes this process's part in the training of a ``RetrievalTask``'s file.

    Args:
        task: the file; the chief has written it before it listens at its address.
        wait: seconds that the cluster's other processes have to appear.

    Raises:
        InputError: ``TF_CONFIG`` or the spec is bad.
        ClusterError: a process of the cluster did not appear, or was lost.
    """
    command = [sys.executable, "-m", "twotower.models.cluster_member", str(task), str(wait)]
    # The child ends when its standard input does.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as member:
        assert member.stdout is not None
        last = "it said nothing"
        try:
            for line in member.stdout:
                last = line.strip()
                progress.info(last)
            status = member.wait()
        except BaseException:
            member.kill()
            raise
    if status == -signal.SIGALRM:
        raise ClusterError(f"a process of the cluster did not appear, or was lost; the last that was heard: {last}")
    if status == BAD_INPUT:
        raise InputError(last)
    if status:
        raise ClusterError(f"training in a cluster failed: {last}")
