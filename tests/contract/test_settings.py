"""Every setting of every agent and of the loop has an effect on the program that `build` makes of it.

Programs are traced and never run. A float is traced as an argument, and must reach what is learned, stored or played;
any other setting is changed, and must give another state or another program. Settings that an agent has no use for are
refused by name.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatch
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers import contract
from helpers.dependence import program, reaching

from mbrl_jax import presets
from mbrl_jax.core import Box, Discrete, Env
from mbrl_jax.core.config import flat, replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.cartpole import cartpole_swingup
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.loop import Loop, LoopConfig

SMALL_MPC: dict[str, Any] = {
    "planner.shooting.horizon": 2, "planner.shooting.population": 8, "planner.shooting.particles": 2,
    "planner.cem.horizon": 2, "planner.cem.population": 8, "planner.cem.elites": 3, "planner.cem.iterations": 2,
    "planner.cem.particles": 2, "planner.icem.horizon": 3, "planner.icem.population": 16, "planner.icem.elites": 3,
    "planner.icem.kept": 1, "planner.icem.iterations": 2, "planner.icem.particles": 2, "planner.mppi.horizon": 2,
    "planner.mppi.population": 8, "planner.mppi.iterations": 2, "planner.mppi.particles": 2,
    "planner.gradient.horizon": 2, "planner.gradient.restarts": 2, "planner.gradient.iterations": 2,
    "planner.gradient.particles": 2,
}  # fmt: skip

# What must be switched on for a setting to matter: agents and settings as patterns, the first that fits; the kind of
# actions (None for the agent's first), and the other settings.
ENVS = {
    "swing-up": lambda: cartpole_swingup(),
    "planes": lambda: make_env("Breakout-MinAtar"),
    "pixels": lambda: make_env("CartPole-pixels"),
    "swing-up pixels": lambda: make_env("CartPoleSwingUp-pixels"),
    "units": lambda: make_env("CartPole-v1"),
}
CONDITIONS: list[tuple[str, str, type | str | None, dict[str, Any]]] = [
    ("pets", "known_reward", "swing-up", {}),
    ("mbpo", "grow_*", None, {"grow_until": 4, "last_horizon": 3}),
    ("mbpo", "cut_budget", None, {"cut": True, "cut_by": "information"}),
    ("mbpo", "cut_*", None, {"cut": True}),
    ("pets", "bonus", None, {"explorer": "disagreement"}),
    ("mbpo", "bonus", None, {"explorer": "disagreement"}),
    ("dyna_dqn", "policy.rnd.*", None, {"policy.explorer": "rnd"}),
    ("*", "rnd.*", None, {"explorer": "rnd"}),
    ("*", "planner.kind", Box, {}),
    ("*", "planner.cem.floor", Discrete, {"planner.kind": "cem"}),
    ("*", "planner.mppi.explore", Discrete, {"planner.kind": "mppi"}),
    *[("[pm][ep][tc]*", f"planner.{kind}.*", Box, {"planner.kind": kind})
      for kind in ("shooting", "cem", "icem", "mppi", "gradient")],
    *[("*", fields, None, {"search.kind": "puct", "search.puct.simulations": 4})
      for fields in ("search.puct.*", "search.*temperature", "search.decay_updates")],
    ("muzero", "net.blocks", "planes", {}),
    ("muzero", "net.channels", "planes", {"net.blocks": 1}),
    ("muzero", "priorities", None, {}),
    ("*", "*normalize_obs", "units", {}),
    ("muzero", "net.project", None, {}),
    ("muzero", "*", None, {"priorities": True, "net.project": 4}),  # alpha and beta, consistency_weight
    ("combo", "actions", Box, {}),
    ("ppo", "channels", "planes", {}),
    ("dreamer_v1", "first_std", Box, {}),
    ("dreamer_v1", "mean_scale", Box, {}),
    ("dreamer_*", "net.depth", "planes", {"net.deter": 16}),
    ("dreamer_*", "net.images", "pixels", {"net.deter": 16, "net.depth": 2}),
    ("dreamer_v3", "plan2explore.*", None, {"explorer": "plan2explore"}),
    ("dreamer_v3", "actor_unimix", Discrete, {}),
    ("dreamer_v3", "net.size", None, {"net.units": 0, "net.stoch": 0}),
    ("world_models", "noise", Box, {"vision.latent": 4}),
    ("world_models", "vision.coder.depth", "planes", {"vision.latent": 4}),
    ("world_models", "vision.coder.images", "pixels", {"vision.latent": 8, "vision.coder.depth": 2}),
    ("world_models", "vision.latent", None, {}),
    ("world_models", "*", Discrete, {"vision.latent": 4}),
    ("tdmpc2", "net.size", None, {"net.units": 0}),
    ("tdmpc2", "net.channels", "swing-up pixels", {}),
    ("tdmpc2", "net.shift", "swing-up pixels", {}),
]  # fmt: skip

# Another value, where the next number would not fit the other settings or is no other case.
VALUES: dict[tuple[str, str], Any] = {
    ("world_models", "memory.hidden"): 16,
    ("tdmpc2", "net.layers"): 3,
    ("tdmpc2", "net.values"): 3,
    ("*", "*activation"): "relu",
    ("*", "known.reward"): "helpers.known_parts:reward",
    ("*", "known.termination"): "helpers.known_parts:termination",
    ("*", "known.member"): "helpers.known_parts:member",
    ("*", "*hidden"): (24,),
    ("*", "memory.heads"): (24,),
    ("*", "fit.elites"): 1,
    ("*", "fit.max_holdout"): 3,
    ("pets", "fit.members"): 2,
    ("pets", "planner.*.particles"): 12,
    ("*", "planner.icem.decay"): 50,
    ("*", "search.gumbel.considered"): 1,
    ("*", "rollouts"): 12,
    ("*", "imagined.rollouts"): 12,
    ("*", "*.layer_norm"): False,
    ("*", "*drawn"): 1,
    ("ppo", "minibatches"): 4,
    ("dreamer_v1", "net.deter"): 16,
    ("dreamer_v2", "net.deter"): 16,
    ("dreamer_v3", "net.deter"): 16,
    ("dreamer_v3", "net.units"): 16,
    ("dreamer_v3", "net.blocks"): 4,
    ("dreamer_v3", "net.bins"): 7,
    ("tdmpc2", "net.group"): 4,
    ("tdmpc2", "net.latent"): 24,
}


def floats(cfg: Any) -> list[str]:
    return [jax.tree_util.keystr(path).lstrip(".") for path, _ in jax.tree_util.tree_flatten_with_path(cfg)[0]]


@cache
def limits(cls: type, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Each setting's allowed values."""
    found: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(cls):
        value = getattr(cls(), field.name)
        if dataclasses.is_dataclass(value):
            found |= limits(type(value), f"{prefix}{field.name}.")
        else:
            found[f"{prefix}{field.name}"] = field.metadata.get("limits", {})
    return found


def condition(algo: str, field: str) -> tuple[type | str, dict[str, Any]]:
    for agents, fields, kind, changes in CONDITIONS:
        if fnmatch(algo, agents) and fnmatch(field, fields):
            return kind or presets.AGENTS[algo].actions[0], changes
    return presets.AGENTS[algo].actions[0], {}


@cache
def environment(kind: type | str, table: bool) -> Env:
    if isinstance(kind, str):
        return wrappers.time_limit(ENVS[kind](), 12)
    return contract.world(kind, table)


def settings(algo: str) -> Any:
    cfg = contract.settings(algo)
    if algo not in ("pets", "mpc"):
        return cfg
    return replace(cfg, {name: 6 if name.endswith("particles") else value for name, value in SMALL_MPC.items()})


def build(algo: str, kind: type | str, changes: dict[str, Any], **loop: Any) -> Loop:
    env = environment(kind, presets.AGENTS[algo].table)
    loop_cfg = replace(contract.loop_settings(algo), {"eval_episodes": 0} | loop)
    return presets.build(algo, env, replace(settings(algo), changes), loop_cfg)


REFUSED: dict[str, tuple[str, ...]] = {"rambo": ("policy.normalize_obs", "policy.scale_rewards")}
"""Settings that an agent's `make` allows no other value."""


def ignored(algo: str) -> list[str]:
    return [*presets.AGENTS[algo].ignored, *REFUSED.get(algo, ())]


# Floats ---------------------------------------------------------------------------------------------------------------


@cache
def reached(algo: str, kind: type | str, changes: tuple[tuple[str, Any], ...]) -> frozenset[str]:
    """The float settings that reach a state after a chunk: what is learned, stored or played."""
    cfg = replace(settings(algo), dict(changes))
    values = {name: jnp.float32(flat(cfg)[name]) for name in floats(cfg)}
    environment(kind, presets.AGENTS[algo].table)  # made here: what is made within the trace must not stay in the cache

    def train(values: dict[str, Any], key: Any) -> Any:
        loop = build(algo, kind, dict(changes) | values)
        return loop.chunk(loop.init(key))[0]

    return frozenset().union(*reaching(train, values, jax.random.key(0)))


def key_of(changes: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(changes.items()))


def without_effect(algo: str) -> list[str]:
    lost = []
    for name in floats(settings(algo)):
        kind, changes = condition(algo, name)
        if name not in ignored(algo) and name not in reached(algo, kind, key_of(changes)):
            lost.append(name)
    return lost


def parts() -> list[Any]:
    return [pytest.param(algo, made.actions[0], id=algo) for algo, made in presets.AGENTS.items()]


@pytest.mark.parametrize(("algo", "kind"), parts())
def test_every_float_reaches_what_is_learned_stored_or_played(algo, kind):
    assert without_effect(algo) == []


@pytest.mark.parametrize(("algo", "fixed"), [("sac", {"tau": 0.5}), ("mbpo", {"fit.lr": 1e-3, "real_ratio": 0.5})])
def test_a_float_that_is_not_handed_on_is_found(algo, fixed, monkeypatch):
    """An agent that is made with numbers of its own, whatever the settings say."""
    entry = presets.AGENTS[algo]
    planted = lambda cfg, *rest: entry.make(replace(cfg, fixed), *rest)  # noqa: E731
    monkeypatch.setitem(presets.AGENTS, algo, dataclasses.replace(entry, make_part=planted))
    reached.cache_clear()
    try:
        assert sorted(without_effect(algo)) == sorted(fixed)
    finally:
        reached.cache_clear()


# Other settings -------------------------------------------------------------------------------------------------------


def others(algo: str, field: str) -> list[Any]:
    """Values that a setting does not have: all other choices, or another number."""
    cfg = replace(settings(algo), condition(algo, field)[1])
    value, allowed = flat(cfg)[field], limits(type(cfg))[field]
    if "choices" in allowed:
        return [choice for choice in allowed["choices"] if choice != value]
    for (agents, fields), other in VALUES.items():
        if fnmatch(algo, agents) and fnmatch(field, fields) and other != value:
            return [other]
    if isinstance(value, bool):
        return [not value]
    assert isinstance(value, int), f"no other value of {field} is known: add one to VALUES"
    return [value + 1]


@cache
def stage(algo: str, kind: type | str, changes: tuple[tuple[str, Any], ...], number: int) -> str:
    """What identifies the state (0), the program that makes it (1) and the one that trains it (2)."""
    loop = build(algo, kind, dict(changes))
    key = jax.random.key(0)
    if number == 0:
        return str(jax.eval_shape(loop.init, key))
    return program(loop.init, key) if number == 1 else program(loop.chunk, jax.eval_shape(loop.init, key))


def differs(algo: str, kind: type | str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    return any(stage(algo, kind, key_of(before), i) != stage(algo, kind, key_of(after), i) for i in range(3))


# A field is a trace of the whole program or two: seconds each. All of these run with `-m slow`.
DEAR = {
    "pets", "mbpo", "dyna_dqn", "alphazero", "muzero", "dreamer_v1", "dreamer_v2", "dreamer_v3", "world_models",
    "tdmpc2", "uct", "mpc", "mopo", "morel", "combo", "rambo",
}  # fmt: skip


def statics() -> list[Any]:
    found = []
    for algo, entry in presets.AGENTS.items():
        cfg = settings(algo)
        for field in flat(cfg):
            if field not in floats(cfg) and field not in ignored(algo):
                marks = pytest.mark.slow if algo in DEAR else ()
                found.append(pytest.param(algo, entry.actions[0], field, id=f"{algo}-{field}", marks=marks))
    return found


@pytest.mark.parametrize(("algo", "kind", "field"), statics())
def test_every_other_setting_changes_the_state_or_the_program(algo, kind, field):
    kind, changes = condition(algo, field)
    for value in others(algo, field):
        assert differs(algo, kind, changes, changes | {field: value}), value


def test_the_same_settings_give_the_same_program():
    """Two programs of one agent differ by nothing but their settings."""
    for number in range(3):
        one = stage("sac", Box, (), number)
        stage.cache_clear()
        assert stage("sac", Box, (), number) == one
    assert stage("sac", Box, (), 2) != stage("sac", Box, (("batch", 9),), 2)


# Of no use ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algo", "field"), [(algo, field) for algo in presets.AGENTS for field in presets.AGENTS[algo].ignored]
)
def test_a_setting_of_no_use_is_refused_by_name(algo, field):
    value = flat(presets.AGENTS[algo].config())[field]
    other = not value if isinstance(value, bool) else value / 2 or value + 1
    with pytest.raises(ValueError, match=rf"agent\.{field} has no effect in {algo}: "):
        build(algo, presets.AGENTS[algo].actions[0], {field: other})


@pytest.mark.parametrize(("algo", "field"), [(algo, field) for algo in REFUSED for field in REFUSED[algo]])
def test_a_setting_that_may_not_be_changed_is_refused_by_name(algo, field):
    with pytest.raises(ValueError, match=rf"^agent\.{field} must be False in {algo.upper()}, "):
        build(algo, presets.AGENTS[algo].actions[0], {field: True})


# The loop -------------------------------------------------------------------------------------------------------------

LATEST = ("capacity",)  # what is stored is one trajectory, whatever fits


@pytest.mark.parametrize("field", flat(LoopConfig()))
@pytest.mark.parametrize("algo", ["sac", "ppo", pytest.param("dreamer_v2", marks=pytest.mark.slow), "q_learning"])
def test_every_setting_of_the_loop_changes_the_state_or_the_program(algo, field):
    kind, entry = presets.AGENTS[algo].actions[0], presets.AGENTS[algo]
    known = flat(contract.loop_settings(algo))
    if field == "overlap" or (entry.table and field in ("num_envs", "unroll", "updates")):  # overlap: the host loop's
        with pytest.raises(ValueError, match=rf"loop\.{field}"):
            build(algo, kind, {}, **{field: 2})
        return
    key = jax.random.key(0)
    environment(kind, entry.table)

    def stages(**loop: Any) -> tuple[Any, ...]:
        made = build(algo, kind, {}, **{"warmup": known["warmup"] or 1, **loop})
        state = jax.eval_shape(made.init, key)
        return str(state), program(made.init, key), program(made.chunk, state)

    same = stages() == stages(**{field: "data=1" if field == "mesh" else 2 * known[field] + 2})
    assert same == (entry.replay == "latest" and field in LATEST)
