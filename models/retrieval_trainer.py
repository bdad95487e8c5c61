"""TFX Trainer's entry point for the retrieval model that the spec names; its base model is what it goes on from."""

from __future__ import annotations

from pathlib import Path

from tfx.components.trainer.fn_args_utils import FnArgs

from twotower.models.cluster_process import TASK_FILE, take_part
from twotower.models.retrieval_task import RetrievalTask
from twotower.models.retrievers import fit

# Seconds that the others have to join once the chief is ready to train.
JOIN = 600.0


def run_fn(fn_args: FnArgs) -> None:
    """Fit on the ``train`` split and export the towers over transformed features.

    With a ``cluster_folder`` this is the chief of a cluster: it leaves the task there, and trains with the processes
    that `twotower worker` started.
    """
    task = RetrievalTask(
        spec=fn_args.custom_config["spec"],
        graph=fn_args.transform_graph_path,
        examples=str(Path(fn_args.train_files[0]).parent.parent),
        run=fn_args.model_run_dir,
        model=fn_args.serving_model_dir,
        base=fn_args.base_model,
    )
    folder = fn_args.custom_config.get("cluster_folder")
    if folder is None:
        task.save(fit(task.data(task.run)))
    else:
        task.write(Path(folder, TASK_FILE))
        take_part(Path(folder, TASK_FILE), JOIN)
