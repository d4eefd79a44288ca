"""Arguments of another form: public functions name the argument and what they expected."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from mbrl_jax.buffers import latest, prioritized, sequence, uniform
from mbrl_jax.core import Box, Discrete, Env, Model, Spec, StepOut, Transition
from mbrl_jax.envs import wrappers
from mbrl_jax.planners.mcts import PUCT, UCT, ChanceModel, Gumbel, chance, gumbel, puct, uct

ITEM = Transition(jnp.zeros(3), jnp.zeros(1), jnp.zeros(()), jnp.ones(()), jnp.zeros(3), jnp.zeros((), bool))
BUFFERS = {
    "uniform": lambda: uniform(24),
    "latest": lambda: latest(4, 2),
    "sequence": lambda: sequence(24, 2, 2),
    "prioritized": lambda: prioritized(24, 2, 2),
}


def block(*lead):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*lead, *leaf.shape)), ITEM)


@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_refuses_what_is_not_time_by_environments(name):
    buffer = BUFFERS[name]()
    data = buffer.init(ITEM)
    for given in (block(), block(4), block(1, 4, 2), block(4, 2)._replace(reward=jnp.zeros(4))):
        with pytest.raises(ValueError, match=r"trajectory must be \[T, N, \.\.\.\]: trajectory\.\w+ must be \[T, N"):
            buffer.add(data, given)
    with pytest.raises(ValueError, match=r"trajectory\.obs must be \[T, N, 3\], got \[4, 2, 5\]"):
        buffer.add(data, block(4, 2)._replace(obs=jnp.zeros((4, 2, 5))))
    with pytest.raises(ValueError, match="trajectory must have the fields that the buffer was made for"):
        buffer.add(data, block(4, 2)._replace(extras=jnp.zeros((4, 2))))
    buffer.add(data, block(4, 2))
    if name in ("sequence", "prioritized"):
        with pytest.raises(ValueError, match="N = 2 environments, got 3"):
            buffer.add(data, block(4, 3))


def test_an_empty_buffer_is_not_sampled():
    buffer = uniform(4)
    data = buffer.init(ITEM)
    for sample in (lambda: buffer.sample(jax.random.key(0), data, 2),
                   lambda: buffer.replay(data).sample(jax.random.key(0), 2)):  # fmt: skip
        with pytest.raises(ValueError, match="the buffer is empty: sample needs at least one row"):
            sample()
    for name in ("sequence", "prioritized"):  # a window of weight 0 says so itself
        windows = BUFFERS[name]()
        assert (windows.sample(jax.random.key(0), windows.init(ITEM), 2).weight == 0).all()


SPEC = Spec(Box((1,)), Discrete(3), name="three actions")
SEARCHES = {
    "uct": lambda: uct(UCT(simulations=2), SPEC),
    "puct": lambda: puct(PUCT(simulations=2), SPEC),
    "gumbel": lambda: gumbel(Gumbel(simulations=2), SPEC),
}


def step(key, state, action):
    return StepOut(state, jnp.zeros(()), jnp.ones(()))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_says_what_its_model_must_return(name):
    planner = SEARCHES[name]()
    wrong = {
        r"model\.step must return a StepOut\(state, reward, discount\), got a tuple": Model(lambda *a: tuple(step(*a))),
        r"model\.step must return a scalar reward, shape \(\), got shape \(1,\)": Model(
            lambda *a: step(*a)._replace(reward=jnp.zeros(1))
        ),
        r"model\.value must return a scalar, shape \(\), got shape \(1,\)": Model(
            step, value=lambda k, s: jnp.zeros(1)
        ),
        r"model\.prior must return logits of all actions, shape \(3,\), got shape \(2,\)": Model(
            step, prior=lambda k, s: jnp.zeros(2)
        ),
        r"model\.legal must return a mask of all actions, shape \(3,\), got shape \(2,\)": Model(
            step, legal=lambda s: jnp.ones(2, bool)
        ),
    }
    for match, model in wrong.items():
        if "prior" in match and name == "uct":
            continue  # it uses none
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(lambda key: planner.plan(key, model, jnp.zeros(1), planner.init()), jax.random.key(0))  # noqa: B023


def test_a_search_with_chance_says_so_too():
    planner = chance(PUCT(simulations=2), SPEC, 2)
    right = ChanceModel(
        decide=lambda s, a: (s, jnp.zeros(()), jnp.zeros(2)), happen=lambda s, c: step(None, s, c),
        value=lambda s: jnp.zeros(()), prior=lambda s: jnp.zeros(3),
    )  # fmt: skip
    wrong = {
        r"model\.happen must return a StepOut": right._replace(happen=lambda s, c: (s, 0.0, 1.0)),
        r"model\.decide must return logits of all outcomes, shape \(2,\)": right._replace(
            decide=lambda s, a: (s, jnp.zeros(()), jnp.zeros(5))
        ),
        r"model\.prior must return logits of all actions, shape \(3,\)": right._replace(prior=lambda s: jnp.zeros(4)),
        r"model\.value must return a scalar": right._replace(value=lambda s: jnp.zeros(2)),
    }
    for match, model in wrong.items():
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(lambda key: planner.plan(key, model, jnp.zeros(1), ()), jax.random.key(0))  # noqa: B023


def env(obs, space):
    return Env(
        Spec(space, Discrete(2), name="odd"),
        lambda key: (jnp.int32(0), obs),
        lambda key, state, action: (state, obs, jnp.zeros(()), jnp.ones(()), jnp.zeros((), bool)),
    )


@pytest.mark.parametrize(
    ("wrap", "space"),
    [(wrappers.flatten, Box((2,))), (wrappers.one_hot, Discrete(3)), (wrappers.scale_obs, Box((2,), 0.0, 1.0))],
)
def test_a_wrapper_refuses_observations_that_are_not_those_of_the_spec(wrap, space):
    name = wrap.__name__
    pair = {"position": jnp.zeros(2), "speed": jnp.zeros(2)}
    wrong = wrap(env(pair, space))
    for call in (lambda: wrong.reset(jax.random.key(0)), lambda: wrong.step(jax.random.key(0), jnp.int32(0), 0)):
        with pytest.raises(ValueError, match=f"{name} needs observations that are one array, odd gave a dict of 2"):
            call()
    with pytest.raises(ValueError, match=rf"{name} needs observations of shape .*got \(5,\)"):
        wrap(env(jnp.zeros(5), space)).reset(jax.random.key(0))
    with pytest.raises(ValueError, match=rf"{name} needs .* observations, odd has \{{'position'") as error:
        wrap(env(pair, {"position": Box((2,))}))
    assert "one_hot" not in str(error.value).removeprefix("one_hot")
