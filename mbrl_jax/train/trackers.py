"""Trackers: where a run's rows go besides its CSV files. Each is called after every chunk, and loads its library then.

A tracker is a `train.run.Watcher`: (Event) -> None, with a `close()`. After the last chunk it gets pictures too, by
`show(picture, env_steps)`. One of your own is a `callback` of `train`, or an entry of `TRACKERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbrl_jax.core.config import flat
from mbrl_jax.train.loop import chunks_for
from mbrl_jax.train.run import Event, Job


class Picture(NamedTuple):
    """A file to show of one seed."""

    seed: int
    name: str  # "film"
    path: Path  # of a PNG, or of a GIF


class AtTheEnd:
    """Shows pictures to trackers after a run's last chunk.

    Args:
      trackers: that get them.
      job: what runs.
      pictures: (event) -> the pictures.
    """

    def __init__(self, trackers: Sequence[Any], job: Job, pictures: Callable[[Event], Sequence[Picture]]):
        self.trackers, self.pictures, self.last = list(trackers), pictures, chunks_for(job.loop, job.steps)

    def __call__(self, event: Event) -> None:
        """Draws the pictures where this is the last chunk."""
        if event.chunk < self.last:
            return
        for picture in self.pictures(event):
            for tracker in self.trackers:
                tracker.show(picture, event.env_steps)


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

    def show(self, picture: Picture, env_steps: int) -> None:
        """Writes a picture as an image, a GIF with its movement."""
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportMissingImports]

        with Image.open(picture.path) as opened:
            width, height = opened.size
        data = picture.path.read_bytes()
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        writer = self.writers[picture.seed]
        writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=picture.name, image=image)]), env_steps)
        writer.flush()

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

    def show(self, picture: Picture, env_steps: int) -> None:
        """Logs a picture as an image, a GIF as a video."""
        gif = picture.path.suffix == ".gif"
        shown = self.wandb.Video(str(picture.path), format="gif") if gif else self.wandb.Image(str(picture.path))
        self.runs[picture.seed].log({picture.name: shown}, step=env_steps)

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
                number = known.experiment_id if known else client.create_experiment(name, self._artifacts(event))
                made = client.create_run(number, run_name=f"{event.folder.name}-seed{seed}")
                self.runs[seed] = made.info.run_id
                for key, value in (described(self.job) | {"seed": seed}).items():
                    client.log_param(self.runs[seed], key, str(value)[:500])
            for key, value in row.items():
                client.log_metric(self.runs[seed], key, value, step=event.env_steps)

    def _artifacts(self, event: Event) -> str | None:
        """Where files go: into the run's folder, or where a server keeps them."""
        local = not os.environ.get("MLFLOW_TRACKING_URI")
        return (event.folder.absolute() / "mlflow_files").as_uri() if local else None

    def show(self, picture: Picture, env_steps: int) -> None:
        """Logs a picture as an artifact."""
        del env_steps
        self.client.log_artifact(self.runs[picture.seed], str(picture.path), "pictures")

    def close(self) -> None:
        """Ends the runs."""
        for made in self.runs.values():
            self.client.set_terminated(made)


TRACKERS: dict[str, tuple[Callable[[Job], Any], str]] = {
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


def made(
    names: str | Sequence[str], job: Job, pictures: Callable[[Event], Sequence[Picture]] | None = None
) -> list[Any]:
    """Trackers by name.

    Args:
      names: one name, or several.
      job: what is to run.
      pictures: draws what they show at the end; nothing if None.
    Returns:
      the watchers of a run: the trackers, and with `pictures` one more that shows these to them.
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
    return [*found, AtTheEnd(found, job, pictures)] if found and pictures is not None else found
