"""Dreams and latent rollouts as `plot.py imagine` draws them, compared with the models they come from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.agents import tdmpc2
from mbrl_jax.agents.open_loop import imagine_episode
from mbrl_jax.agents.world_models import agent as world_models
from mbrl_jax.core import replace
from mbrl_jax.envs.registry import make_env
from mbrl_jax.models.tdmpc2 import networks as tdmpc
from mbrl_jax.models.tdmpc2.losses import unroll_latents
from mbrl_jax.models.world_models.vae import vae

CONTEXT, HORIZON = 3, 4


def played(agent, learner, env, model, samples=2):
    play = jax.jit(lambda key: imagine_episode(key, agent, learner, env, model, CONTEXT, HORIZON, samples))
    return jax.device_get(play(jax.random.key(1)))


def test_dreams_start_from_the_context_and_continue_without_observations():
    env = make_env("CartPole-hidden")
    cfg = replace(world_models.WorldModelsConfig(), {"vision.latent": 0, "memory.hidden": 4, "temperature": 1e-6})
    agent = world_models.make(cfg, env.spec)
    learner = agent.init(jax.random.key(0))
    sight = vae(cfg.vision, env.spec.obs)
    rows = jnp.array([[0.0, 2.0], [2.0, -1.0], [1.0, 0.5]])
    learner = learner._replace(vision=sight.calibrate(learner.vision, rows, jnp.ones(3, bool)))
    model = world_models.open_loop_model(cfg, env.spec, learner)
    at = played(agent, learner, env, model)
    np.testing.assert_allclose(at.rebuilt, at.real, atol=1e-5)  # a vector is its own latent

    carry = agent.carry()
    for t in range(CONTEXT + HORIZON):  # the memory of an actor with the same observations
        seen = model.track(jax.random.key(0), at.real, at.action)
        for mine, its in zip(jax.tree.leaves(seen.memory), jax.tree.leaves(carry), strict=True):
            np.testing.assert_allclose(mine[t], its, atol=1e-6)
        _, carry, _ = agent.act(jax.random.key(0), learner, carry, jnp.asarray(at.real[t]), False)

    state = jax.tree.map(lambda leaf: leaf[CONTEXT - 1], model.track(jax.random.key(0), at.real, at.action))
    for t in range(HORIZON):  # at a temperature near 0 a dream follows the most likely path, whatever its key
        state = model.step(jax.random.key(t), state, at.action[CONTEXT - 1 + t])
        np.testing.assert_allclose(at.imagined[:, t], np.tile(model.decode(state), (2, 1)), atol=1e-2)


def test_latent_rollouts_are_those_of_the_losses():
    env = make_env("Pendulum-v1")
    cfg = replace(tdmpc2.TDMPC2Config(), {
        "net.encoder": 8, "net.units": 8, "net.latent": 8, "net.values": 2, "net.bins": 5, "planner.horizon": 2,
        "planner.population": 8, "planner.elites": 2, "planner.iterations": 1, "planner.proposals": 2,
    })  # fmt: skip
    agent = tdmpc2.make(cfg, env.spec)
    learner = agent.init(jax.random.key(0))
    noisy = jax.tree.map(lambda w: w + 0.3 * jax.random.normal(jax.random.key(2), w.shape), learner.params)
    learner = learner._replace(params=noisy)
    model = tdmpc2.open_loop_model(cfg, env.spec, learner)
    at = played(agent, learner, env, model, 1)
    nets, world = tdmpc.tdmpc(cfg.net, env.spec), learner.params.world
    assert at.real.shape == (CONTEXT + HORIZON, 1 + tdmpc2.LATENTS) == (7, len(model.labels))
    np.testing.assert_allclose(at.rebuilt, at.real, rtol=1e-5)  # both encode the same observations

    key_reset = jax.random.split(jax.random.key(1), 4)[0]
    state, obs = env.reset(key_reset)
    seen = [obs]
    for action in at.action[:-1]:  # the pendulum draws nothing
        state, obs, *_ = env.step(jax.random.key(0), state, action)
        seen.append(obs)
    z = jax.vmap(lambda obs: tdmpc.encode(nets, world, obs).z)(jnp.stack(seen))
    np.testing.assert_allclose(at.real[:, 1:], z[:, : tdmpc2.LATENTS], rtol=1e-4, atol=1e-6)
    later = unroll_latents(nets, world, seen[CONTEXT - 1], at.action[CONTEXT - 1 : -1]).z[1:]
    np.testing.assert_allclose(at.imagined[0, :, 1:], later[:, : tdmpc2.LATENTS], rtol=1e-4, atol=1e-6)
    assert np.ptp(at.real[:, 0]) > 1e-3  # values differ from state to state
