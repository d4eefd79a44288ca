"""What every agent in `AGENTS` promises, whatever it learns by."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.contract import (
    CASES,
    FIRST,
    FIRST_CASES,
    LEARNS_NOTHING,
    LOOP,
    LOOP_CASES,
    NAMES,
    PLANNING,
    SMALL,
    build,
    case,
    check_keys,
    compiled,
    jit,
    loop_settings,
    settings,
    world,
)

from mbrl_jax import presets
from mbrl_jax.core import Box, Discrete, tree
from mbrl_jax.core.config import flat, replace
from mbrl_jax.ops import optim
from mbrl_jax.testing import agents
from mbrl_jax.testing.agents import Subject
from mbrl_jax.testing.faults import differences, numbers

every = pytest.mark.parametrize(("algo", "kind"), CASES, ids=NAMES)
every_first = pytest.mark.parametrize(("algo", "kind"), FIRST_CASES)
every_kind = pytest.mark.parametrize(("algo", "kind"), LOOP_CASES)


def whole(algo, kind):
    """An agent of the contract, compiled once for all tests, as `mbrl_jax.testing` looks at it."""
    it = case(algo, kind)
    return Subject(it.agent, it.env, it.loop, *compiled(algo, kind), compile=lambda fn, **how: jit(fn, algo, **how))


def draws(algo):
    """Whether `act` draws actions when it explores and when not."""
    if algo == "bc":  # clones actions, and draws discrete ones alone
        return None, False
    return (None, None) if algo == "uct" else (True, algo in PLANNING)  # uct: what it finds out here is certain


def assert_same(one, two, **tolerance):
    assert [*differences(one, two, "found and expected", **tolerance)] == []


@every_kind
def test_the_state_before_the_warm_up_has_the_shapes_of_that_after_it(algo, kind):
    loop = case(algo, kind).loop
    assert loop.warm_up is not None
    assert loop.warm_up.start is not None
    before, after = (jax.eval_shape(fn, jax.random.key(0)) for fn in (loop.warm_up.start, loop.init))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (one.shape, one.dtype, one.weak_type) == (other.shape, other.dtype, other.weak_type)


@every
def test_a_given_action_leaves_what_act_would_leave_with_it(algo, kind):
    """Agents with a memory remember the given action; planners begin a new plan; a search found nothing."""
    it = case(algo, kind)
    learner, obs = jax.jit(it.agent.init)(jax.random.key(0)), it.env.reset(jax.random.key(2))[1]
    act = jax.jit(lambda key, carry: it.agent.act(key, learner, carry, obs, True))
    _, carry, _ = act(jax.random.key(3), it.agent.carry())  # within an episode
    action, after, extras = act(jax.random.key(4), carry)
    action = extras.action if algo == "ppo" else action  # before it is clipped to the bounds
    if it.agent.follow is None:
        assert jax.tree.leaves((after, extras)) == []
        return
    follow = jax.jit(lambda key, action: it.agent.follow(key, learner, carry, obs, action))
    found = follow(jax.random.key(4), action)
    if algo in (*PLANNING, "uct", "alphazero", "muzero"):
        assert_same(found[0], it.agent.carry())
        assert_same(found[1], jax.tree.map(jnp.zeros_like, extras))
        return
    assert_same(found, (after, extras), rtol=1e-5, atol=1e-6)
    space = it.env.spec.action
    other = (action + 1) % space.n if isinstance(space, Discrete) else -action
    one, two = follow(jax.random.key(4), action), follow(jax.random.key(4), other)
    assert any(not np.array_equal(x, y) for x, y in zip(numbers(one), numbers(two), strict=True))


def test_every_agent_is_held_to_the_contract():
    assert set(SMALL) == set(presets.AGENTS)


@every
def test_actions_fit_the_space_and_extras_keep_their_shape(algo, kind):
    it = case(algo, kind)
    seen = it.env.reset(jax.random.key(2))[1]
    obs = seen if presets.AGENTS[algo].simulator else jnp.full(it.env.spec.obs.shape, 0.3).astype(it.env.spec.obs.dtype)
    assert [*agents.action_faults(it.agent, it.env, draws(algo), obs)] == []


@every_first
def test_chunk_keeps_structure_shapes_and_types_and_compiles_once(algo, kind):
    assert [*agents.structure_faults(whole(algo, kind))] == []


ROUNDED = {("dreamer_v1", Box), ("dreamer_v2", Box)}
"""Agents whose two programs XLA fuses in two ways on an Intel Xeon, though not on an AMD EPYC: last digits differ."""


@every_kind
def test_train_equals_run_bitwise_and_evaluation_changes_nothing(algo, kind):
    """`train` evaluates and the chunks here do not: all that is learned and measured is the same to the bit."""
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if (algo, kind) in ROUNDED else {}
    assert [*agents.train_faults(whole(algo, kind), **tolerance)] == []


def test_evaluation_is_the_same_in_train_and_in_run():
    loop = build("sac", Discrete)
    init, chunk = jax.jit(loop.init), jax.jit(loop.chunk)
    state, reports = init(jax.random.key(3)), []
    for _ in range(2):
        state, report = chunk(state)
        reports.append(report)
    _, stacked = jax.jit(loop.train, static_argnums=1)(jax.random.key(3), 2)
    assert [*differences(tree.stack(reports), stacked, "reports")] == []
    assert stacked.returns.shape == (2, LOOP.eval_episodes)
    assert len(np.unique(stacked.returns)) > 1


@every_first
def test_resumed_equals_continued_bitwise(algo, kind, tmp_path):
    assert [*agents.resume_faults(whole(algo, kind), tmp_path)] == []


@every_first
def test_seeds_differ_from_the_first_parameter_on(algo, kind):
    it = whole(algo, kind)
    assert [*agents.seed_faults(it)] == []
    if algo not in LEARNS_NOTHING and not presets.AGENTS[algo].table:
        leaves = jax.tree.leaves(it.init(jax.random.key(0)).learner)
        assert any(x.ndim >= 2 and len(np.unique(x)) > 16 for x in leaves if not is_key(x)), "weights are compared"


def is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@every_kind
def test_vmapped_traced_settings_equal_the_single_run(algo, kind):
    """One program over two learning rates and two seeds: its first row is the plain run."""
    if algo in LEARNS_NOTHING:
        pytest.skip("learns nothing, and so has no rate")
    cfg = settings(algo)
    rate = next(name for name in flat(cfg) if name.endswith("lr"))

    def build_traced(cfg):
        loop = replace(loop_settings(algo), {"eval_episodes": 0})  # evaluation changes nothing that is learned
        return presets.build(algo, world(kind, presets.AGENTS[algo].table), cfg, loop)

    assert [*agents.sweep_faults(whole(algo, kind), cfg, build_traced, rate)] == []


@every_first
def test_no_key_is_used_twice(algo, kind):
    loop = build(algo, kind, inner=1, cycles=1, unroll=1, updates=1, warmup=10)
    assert [*agents.key_faults(loop)] == []


def test_a_key_used_twice_would_be_noticed():
    def twice(key):
        keys = jax.random.split(key, 3)
        draw = lambda total, key: (total + jax.random.normal(key), None)  # noqa: E731
        return jax.lax.scan(draw, 0.0, keys)[0] + jax.lax.scan(draw, 0.0, keys)[0]

    def twice_within(key):
        draw = jax.jit(lambda key: jax.random.normal(key) + jax.random.uniform(key))
        return jax.lax.scan(lambda total, _: (total + draw(jax.random.fold_in(key, 1)), None), 0.0, length=3)[0]

    for fn in (twice, twice_within):
        with pytest.raises(jax.errors.KeyReuseError):
            check_keys(fn, jax.random.key(0))


@every_first
def test_updates_change_what_is_learned(algo, kind):
    it = whole(algo, kind)
    assert (jax.tree.leaves(it.init(jax.random.key(2)).learner) == []) == (algo in LEARNS_NOTHING)
    assert [*agents.learning_faults(it, share=0.6)] == []


# What falls where an agent that learns by gradients sees the same batch again and again, added up. (Tables are held to
# NumPy, each in its own test.)
FALLS = {
    "dqn": ("loss",), "dyna_dqn": ("loss",), "ppo": ("value_loss",), "sac": ("critic_loss",), "mbpo": ("critic_loss",),
    "pets": ("model/train_loss",), "alphazero": ("policy_loss", "value_loss"),
    "muzero": ("policy_loss", "value_loss", "reward_loss"), "dreamer_v1": ("model_loss",),
    "dreamer_v2": ("model_loss",), "dreamer_v3": ("decoder_loss", "reward_loss", "continue_loss"),
    "world_models": ("model/latent", "model/reward", "model/end"),
    "tdmpc2": ("consistency_loss", "reward_loss", "value_loss"), "bc": ("policy_loss",),
    "iql": ("value_loss", "critic_loss"), "mopo": ("critic_loss",), "morel": ("critic_loss",),
    "combo": ("critic_loss", "conservative_loss"), "rambo": ("critic_loss",),
}  # fmt: skip
UPDATES = 24
FASTER = {"sac": {"lr": 1e-2}, "iql": {"lr": 1e-2}} | {
    algo: {"policy.lr": 1e-2} for algo in ("mbpo", "mopo", "morel", "combo", "rambo")
}  # than their targets move


def experienced(algo, kind):
    """A state after a chunk: a filled buffer, a fitted model."""
    init, chunk = compiled(algo, kind)
    return chunk(init(jax.random.key(5)))[0]


def losses_on_one_batch(algo, kind, state):
    """What `FALLS` names, before each of some updates with one key and one replay: every batch and draw is the same."""
    cfg = replace(settings(algo), FASTER.get(algo, {}))
    agent, buffer = presets.learner(algo, world(kind), cfg)[0], presets.buffer(algo, cfg, loop_settings(algo))
    refreshes = algo in ("pets", "world_models")  # all they learn is fitted by `refresh`

    def update(learner, data):
        key, replay = jax.random.key(6), buffer.replay(data)
        if refreshes:
            return agent.refresh(key, learner, replay)
        return agent.update(key, learner, replay)[:2]

    learner, found, step = state.learner, [], jit(update, algo)
    for _ in range(4 if refreshes else UPDATES):
        learner, metrics = step(learner, state.buffer)
        found.append(float(sum(metrics[name] for name in FALLS[algo])))
    return found


def flip_gradients(monkeypatch):
    """Every optimizer's step goes up where it should go down."""
    right = optim.descend
    wrong = lambda rule, grads, *rest: right(rule, jax.tree.map(jnp.negative, grads), *rest)  # noqa: E731
    for name, module in list(sys.modules.items()):
        if name.startswith("mbrl_jax") and getattr(module, "descend", None) is right:
            monkeypatch.setattr(module, "descend", wrong)


DEAR = {
    "dreamer_v1", "dreamer_v2", "world_models", "tdmpc2", "muzero", "alphazero", "pets", "dyna_dqn", "mopo", "morel",
    "combo", "rambo",
}  # fmt: skip
"""Compiled for this test alone, for half a minute together; the rest stand for them in the default run."""


def test_every_agent_lowers_a_loss_or_has_none():
    tables = {algo for algo, made in presets.AGENTS.items() if made.table}
    assert set(FALLS) == set(presets.AGENTS) - tables - set(LEARNS_NOTHING)


@pytest.mark.parametrize(
    ("algo", "kind"),
    [
        pytest.param(algo, presets.AGENTS[algo].actions[0], id=algo, marks=pytest.mark.slow if algo in DEAR else ())
        for algo in FALLS
    ],
)
def test_updates_lower_the_loss_on_their_own_batch(algo, kind):
    found = losses_on_one_batch(algo, kind, experienced(algo, kind))
    assert np.isfinite(found).all()
    assert min(found[-3:]) < found[0], found


FLIPPED = [
    pytest.param(algo, kind, marks=() if algo in ("dqn", "sac", "ppo") else pytest.mark.slow, id=name)
    for (algo, kind), name, first in zip(CASES, NAMES, FIRST, strict=True)
    if first and algo in FALLS
]


def flip_derivatives(monkeypatch):
    """Every gradient has the other sign."""

    def flipped(right, at):
        def make(*args, **rest):
            taken = right(*args, **rest)

            def call(*args_of_fn, **rest_of_fn):
                out = taken(*args_of_fn, **rest_of_fn)
                if at == 0 and not rest.get("has_aux", False):
                    return jax.tree.map(jnp.negative, out)
                return tuple(jax.tree.map(jnp.negative, part) if i == at else part for i, part in enumerate(out))

            return call

        return make

    monkeypatch.setattr(jax, "grad", flipped(jax.grad, 0))
    monkeypatch.setattr(jax, "value_and_grad", flipped(jax.value_and_grad, 1))


@pytest.mark.parametrize(("algo", "kind"), FLIPPED)
def test_a_flipped_gradient_raises_it(algo, kind, monkeypatch):
    state = experienced(algo, kind)  # before: what is compiled for the other tests must stay right
    own_step = algo == "tdmpc2"  # its networks differ in their rates, and it takes the step itself
    (flip_derivatives if own_step else flip_gradients)(monkeypatch)
    found = losses_on_one_batch(algo, kind, state)
    assert not min(found[-3:]) < found[0], found


def test_unknown_action_spaces_are_refused_by_name():
    wide = case("sac", Box).env.spec._replace(action=Box((1,), -2.0, 2.0), name="wide")
    with pytest.raises(ValueError, match=r"wide: actions must be a vector in \[-1, 1\]"):
        presets.AGENTS["sac"].make(settings("sac"), wide)


ROOT = Path(__file__).parent.parent.parent
REFERENCE = (ROOT / "docs" / "reference" / "agents.md").read_text()


def explained(anchor):
    """The metrics that a section of the reference names, and those of the sections that it refers to."""
    parts = re.split(r"(?m)^##+ (.+)$", REFERENCE)
    titles = {re.sub(r"\s+", "-", title.lower()): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    body = next(text for title, text in titles.items() if anchor in (title, *title.split("-and-")))
    bullet = re.search(r"(?ms)^- \*\*Metrics\*\*: (.*?)(?=^- |\Z)", body)
    text = bullet[1] if bullet else body
    names = set(re.findall(r"`([\w/]+)`", text))
    return names.union(*(explained(other) for other in re.findall(r"\(#([\w-]+)\)", text)))


RECORDED = sorted(str(path.parent.relative_to(ROOT)) for path in (ROOT / "results").rglob("metrics.csv"))


@pytest.mark.parametrize("run", RECORDED)
def test_every_column_of_the_recorded_runs_is_explained(run):
    """With the settings of presets, of which some bring further metrics."""
    folder = ROOT / run
    shared = {"seed", "env_steps", "updates", "wall_seconds", "return", "episodes", "eval_return"}
    written = set((folder / "metrics.csv").read_text().partition("\n")[0].split(",")) - shared
    algo = json.loads((folder / "config.json").read_text())["algo"]
    assert written <= explained(algo), written - explained(algo)


@every_first
def test_every_metric_is_explained_in_the_reference(algo, kind):
    init, chunk = compiled(algo, kind)
    _, report = jax.eval_shape(chunk, jax.eval_shape(init, jax.random.key(0)))  # traced for the other tests already
    written = set(report.metrics) - {"return", "episodes"}
    assert (written == set()) == (algo in LEARNS_NOTHING)
    assert written <= explained(algo), written - explained(algo)
