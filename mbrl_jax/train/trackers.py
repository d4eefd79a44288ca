"""Trackers: where a run's rows go besides its CSV files. Each is called after every chunk, and loads its library then.

A tracker is a `train.run.Watcher`: (Event) -> None, with a `close()`. One of your own is a `callback` of `train`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mbrl_jax.core.config import flat
from mbrl_jax.train.run import Event, Job


def scalars(event: Event) -> dict[int, dict[str, float]]:
    """What a tracker shows of each seed after a chunk; what is missing is left out.

    Args:
      event: of the chunk.
    Returns:
      by seed: `eval/return` and `eval/length`, the means over evaluation episodes; `train/return`, where an episode
      ended; every other metric under its name; and `time/wall_seconds`.
    """
    found: dict[int, dict[str, float]] = {}
    returns, lengths = np.asarray(event.returns, np.float64), np.asarray(event.lengths, np.float64)
    for i, seed in enumerate(event.seeds):
        row = {name: float(np.asarray(values)[i]) for name, values in event.metrics.items()}
        ended = row.get("episodes", 1.0)
        training = row.pop("return", None)
        if training is not None and ended:
            row["train/return"] = training
        if returns.shape[1]:
            row |= {"eval/return": float(returns[i].mean()), "eval/length": float(lengths[i].mean())}
        row["time/wall_seconds"] = event.wall_seconds
        found[seed] = row
    return found


class TensorBoard:
    """Event files for TensorBoard in the run's folder, `tensorboard/seed_K`, written by tensorboardX.

    Args:
      job: what runs.
    """

    def __init__(self, job: Job):
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

        self.make, self.job, self.writers = SummaryWriter, job, {}

    def __call__(self, event: Event) -> None:
        """Writes a chunk's scalars; those of a resumed run that are written again replace the later ones."""
        for seed, row in scalars(event).items():
            if seed not in self.writers:
                folder = event.folder / "tensorboard" / f"seed_{seed}"
                self.writers[seed] = self.make(str(folder), purge_step=event.env_steps, write_to_disk=True)
            for name, value in row.items():
                self.writers[seed].add_scalar(name, value, event.env_steps)
            self.writers[seed].flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self.writers.values():
            writer.close()


class WandB:
    """A run of Weights & Biases for each seed, in one group; offline in the run's folder under `WANDB_MODE=offline`.

    Args:
      job: what runs.
    """

    def __init__(self, job: Job):
        import wandb  # pyright: ignore[reportMissingImports]

        self.wandb, self.job, self.runs = wandb, job, {}

    def __call__(self, event: Event) -> None:
        """Logs a chunk's scalars; the step is the number of environment steps."""
        job = self.job
        for seed, row in scalars(event).items():
            if seed not in self.runs:
                name = os.environ.get("WANDB_PROJECT", "mbrl_jax")
                self.runs[seed] = self.wandb.init(
                    project=name, group=event.folder.name, name=f"{event.folder.name}-seed{seed}",
                    dir=str(event.folder), config=described(job) | {"seed": seed}, reinit="create_new",
                )  # fmt: skip
            self.runs[seed].log(row, step=event.env_steps)

    def close(self) -> None:
        """Ends the runs."""
        for made in self.runs.values():
            made.finish()


class MLflow:
    """A run of MLflow for each seed, in the experiment `mbrl_jax`, or that of `MLFLOW_EXPERIMENT_NAME`.

    It is kept in the database file `mlflow.db` of the run's folder, unless `MLFLOW_TRACKING_URI` names a place.

    Args:
      job: what runs.
    """

    def __init__(self, job: Job):
        import mlflow  # pyright: ignore[reportMissingImports]

        self.mlflow, self.job, self.runs = mlflow, job, {}
        self.client: Any = None

    def _client(self, event: Event) -> Any:
        if self.client is None:
            uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(event.folder / 'mlflow.db').absolute()}"
            self.client = self.mlflow.MlflowClient(tracking_uri=uri)
        return self.client

    def __call__(self, event: Event) -> None:
        """Logs a chunk's scalars; the step is the number of environment steps."""
        client = self._client(event)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mbrl_jax")
        for seed, row in scalars(event).items():
            if seed not in self.runs:
                known = client.get_experiment_by_name(name)
                number = known.experiment_id if known else client.create_experiment(name)
                made = client.create_run(number, run_name=f"{event.folder.name}-seed{seed}")
                self.runs[seed] = made.info.run_id
                for key, value in (described(self.job) | {"seed": seed}).items():
                    client.log_param(self.runs[seed], key, str(value)[:500])
            for key, value in row.items():
                client.log_metric(self.runs[seed], key, value, step=event.env_steps)

    def close(self) -> None:
        """Ends the runs."""
        for made in self.runs.values():
            self.client.set_terminated(made)


TRACKERS: Mapping[str, tuple[Callable[[Job], Any], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WandB, "wandb"),
    "mlflow": (MLflow, "mlflow"),
}
"""Every tracker by name, with the library that it needs."""


def described(job: Job) -> dict[str, Any]:
    """A job's settings in one flat dict, as a tracker shows them.

    Args:
      job: what runs.
    """
    own = {"algo": job.algo, "env": job.env, "steps": job.steps, "seeds": job.seeds}
    return own | flat(job.agent, "agent.") | flat(job.loop, "loop.")


def made(names: str | Sequence[str], job: Job) -> list[Any]:
    """Trackers by name.

    Args:
      names: one name, or several.
      job: what is to run.
    Raises:
      ValueError: there is no tracker of a name, or its library is not installed.
    """
    found = []
    for name in [names] if isinstance(names, str) else names:
        if name not in TRACKERS:
            raise ValueError(f"track must be of {', '.join(TRACKERS)}, got {name!r}")
        make, library = TRACKERS[name]
        try:
            found.append(make(job))
        except ImportError as error:
            raise ValueError(f"track: {name} needs {library}: pip install 'mbrl_jax[{name}]'") from error
    return found
