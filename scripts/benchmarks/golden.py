"""Numbers of short runs of the agents, to hold another device against: `results/golden.json` has those of a CPU.

    python scripts/benchmark.py golden [--agents sac ppo] [--write]

Each agent is begun, warmed up and trained for one iteration at tiny size, its products in float32 throughout (matmul
precision "highest"), 64 bits off. Kept are the metrics of the update, and the norms of each part of the learner, of the
replay and of the environments. Random bits must be equal, all else within `RELATIVE` and `ABSOLUTE`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax import presets
from mbrl_jax.core import tree
from mbrl_jax.core.config import replace

FILE = Path(__file__).parents[2] / "results" / "golden.json"

RELATIVE, ABSOLUTE = 5e-4, 2e-5
"""|a - b| must be at most RELATIVE |b| + ABSOLUTE."""

PRECISION = "highest"
"""The matmul precision of these runs: no TF32, no bfloat16."""

NETS: dict[str, Any] = {"hidden": (32, 32), "batch": 16}
MODEL: dict[str, Any] = {
    "model.hidden": (32, 32), "fit.members": 3, "fit.elites": 2, "fit.batch": 16, "fit.max_epochs": 2,
}  # fmt: skip
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sac": ("Pendulum-v1", NETS),
    "dreamer_v3": (
        "CartPole-v1",
        {
            "net.deter": 32, "net.units": 16, "net.stoch": 4, "net.classes": 4, "net.blocks": 2, "net.bins": 31,
            "batch": 4, "length": 8, "imagined": 4, "lr_warmup": 1,
        },
    ),
    "tdmpc2": (
        "Pendulum-v1",
        {
            "net.encoder": 32, "net.units": 32, "net.latent": 32, "net.bins": 21, "batch": 8, "planner.horizon": 2,
            "planner.population": 16, "planner.elites": 4, "planner.iterations": 2, "planner.proposals": 4,
        },
    ),
    "muzero": (
        "CartPole-v1", {"search.gumbel.simulations": 8, "net.latent": 16, "net.hidden": (16,), "unroll": 3, "batch": 8},
    ),
    "mbpo": (
        "Pendulum-v1",
        {
            "policy.hidden": (32, 32), "policy.batch": 16, "rollouts": 32, "first_horizon": 1, "last_horizon": 2,
            "retain": 2, **MODEL,
        },
    ),
    "ppo": ("CartPole-v1", {"hidden": (32, 32), "epochs": 1, "minibatches": 2}),
    "dqn": ("CartPole-v1", NETS),
    "pets": (
        "Pendulum-v1",
        {
            "planner.kind": "cem", "planner.cem.horizon": 4, "planner.cem.population": 16, "planner.cem.elites": 4,
            "planner.cem.iterations": 2, "planner.cem.particles": 6, **MODEL,
        },
    ),
    "dyna_q": ("FrozenLake", {}),
}  # fmt: skip
"""Environment and settings of each agent, the dearest questions first."""

LOOP: dict[str, Any] = {
    "num_envs": 2, "unroll": 2, "updates": 1, "inner": 1, "cycles": 1, "warmup": 40, "eval_episodes": 0,
    "capacity": 400,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "ppo": {"warmup": 0, "unroll": 16},
    "dyna_q": {"num_envs": 1, "unroll": 1, "warmup": 0, "inner": 40, "capacity": 1},
}

Numbers = dict[str, float]


class Verdict(NamedTuple):
    """How the numbers of one agent compare."""

    total: int  # numbers compared
    largest: float  # deviation, in units of what is allowed
    where: str  # its name
    missing: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether all numbers are there, and within what is allowed."""
        return not self.missing and self.total > 0 and self.largest <= 1.0


def random_bits() -> Numbers:
    """Sums of random bits and of what is drawn from them, and of an index that ties decide."""
    key = jax.random.key(7)
    bits = jax.random.bits(key, (1000,))
    return {
        "bits_low": float(jnp.sum(bits & 0xFFFF)),
        "bits_high": float(jnp.sum(bits >> 16)),
        "permutation": float(jnp.sum(jax.random.permutation(key, 1000)[:500])),
        "first_of_ties": float(jnp.argmax(jnp.zeros(64)) + jnp.argmax(jnp.arange(64) // 8)),
    }


def numbers(algo: str) -> Numbers:
    """The numbers of one agent on the device that jax uses.

    Args:
      algo: in `AGENTS`, or "random" for the random bits.
    """
    if algo == "random":
        return random_bits()
    env, changes = AGENTS[algo]
    known = presets.preset(algo, env)
    cfg = replace(known.loop, LOOP | CHANGES.get(algo, {}))
    loop = presets.build(algo, env, replace(known.agent, changes), cfg)
    with jax.default_matmul_precision(PRECISION):
        state = jax.jit(lambda key: tree.strip_weak_types(loop.init(key)))(jax.random.key(5))
        found = {f"warm_up.{name}": value for name, value in _norms(state.buffer, "replay")}
        state, report = jax.jit(loop.chunk)(state)
    found |= {f"metrics.{name}": float(value) for name, value in report.metrics.items()}
    for name in ("learner", "buffer", "actors"):
        found |= _norms(getattr(state, name), name)
    return found


def _norms(part: Any, name: str) -> Iterator[tuple[str, float]]:
    """The root mean square of all numbers in each field of a record, two levels deep."""
    fields = getattr(part, "_asdict", dict)()
    if fields and name.count(".") < 2:
        for field, inner in fields.items():
            yield from _norms(inner, f"{name}.{field}")
        return
    leaves = [leaf for leaf in jax.tree.leaves(part) if jnp.issubdtype(leaf.dtype, jnp.number)]
    count = sum(leaf.size for leaf in leaves)
    if count:
        yield name, math.sqrt(sum(float(jnp.sum(jnp.square(leaf.astype(jnp.float32)))) for leaf in leaves) / count)


def compared(found: Mapping[str, float], kept: Mapping[str, float], exact: bool = False) -> Verdict:
    """How numbers compare with those kept.

    Args:
      found: on this device.
      kept: those to hold them against.
      exact: whether they must be equal.
    """
    worst, where = 0.0, ""
    for name in found.keys() & kept.keys():
        allowed = 1e-30 if exact else RELATIVE * abs(kept[name]) + ABSOLUTE
        off = abs(found[name] - kept[name]) / allowed
        if not off <= worst:  # NaN too
            worst, where = (off if math.isfinite(off) else math.inf), name
    return Verdict(len(found.keys() & kept.keys()), worst, where, tuple(sorted(found.keys() ^ kept.keys())))


def read(file: Path | str = FILE) -> dict[str, Any]:
    """The kept numbers: "made_with", and "numbers" by agent."""
    return json.loads(Path(file).read_text())


def checked(algo: str, file: Path | str = FILE) -> Verdict:
    """One agent's numbers on this device, compared with those kept.

    Args:
      algo: in `AGENTS`, or "random".
      file: of the kept numbers.
    """
    return compared(numbers(algo), read(file)["numbers"].get(algo, {}), exact=algo == "random")


def described(algo: str, verdict: Verdict) -> str:
    """A verdict in words."""
    if verdict.missing:
        return f"{algo}: differs in {', '.join(verdict.missing[:3])}, which only one side has"
    if not verdict.agrees:
        return f"{algo}: {verdict.where} is off by {verdict.largest:.1f} times what is allowed"
    return f"{algo}: {verdict.total} numbers agree, the farthest at {verdict.largest:.2g} of what is allowed"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["random", *AGENTS]
    parser.add_argument("--agents", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--write", action="store_true", help=f"write them to {FILE.name}, instead of comparing with it")
    given = parser.parse_args(argv)
    if given.write:
        made = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "precision": PRECISION, "x64": False}
        kept: dict[str, Numbers] = read()["numbers"] if FILE.exists() else {}
        for name in given.agents:
            kept[name] = {key: float(f"{value:.8g}") for key, value in numbers(name).items()}
            FILE.write_text(json.dumps({"made_with": made, "numbers": kept}, indent=1) + "\n")
        print(f"wrote {FILE}")
        return 0
    verdicts = {name: checked(name) for name in given.agents}
    for name, verdict in verdicts.items():
        print(described(name, verdict), file=sys.stdout if verdict.agrees else sys.stderr)
    return 0 if all(verdict.agrees for verdict in verdicts.values()) else 1
