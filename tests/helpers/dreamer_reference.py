"""One update of DreamerV3, and every term of its loss by NumPy, for the tests of both."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.agents.dreamer import v3 as dreamer_v3
from mbrl_jax.agents.dreamer.actor_critic_v3 import imagine_trajectory, make_policy
from mbrl_jax.buffers.sequence import Step, Window
from mbrl_jax.core import Box, Discrete, Replay, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.models.rssm import dreamer_v3 as model
from mbrl_jax.models.rssm.rssm import Latent

OBS, ACTIONS, T, B, H = 3, 2, 4, 2, 3
SPEC = Spec(Box((OBS,)), Discrete(ACTIONS))
NET = {"net.deter": 6, "net.units": 5, "net.stoch": 2, "net.classes": 3, "net.blocks": 2, "net.bins": 11}
SMALL = NET | {
    "net.unimix": 0.05, "batch": B, "length": T, "imagined": H, "gamma": 0.9, "lam": 0.8, "entropy": 0.3,
    "actor_unimix": 0.1, "free": 0.2, "dyn_scale": 1.5, "rep_scale": 0.3, "replay_value": 0.6, "slow_share": 0.25,
    "slow_weight": 0.7, "range_rate": 0.5, "decoder_scale": 2.0, "clip": 1e9, "lr": 1e-2, "lr_warmup": 1,
}  # fmt: skip
WIDTH = 6 + 2 * 3


def settings(**changes: Any) -> dreamer_v3.DreamerV3Config:
    return replace(dreamer_v3.DreamerV3Config(), SMALL | {name.replace("__", "."): x for name, x in changes.items()})


def always(window: Window) -> Replay:
    """A replay that always gives the same batch."""
    return Replay(lambda key, n: window, lambda index: window, jnp.int32(9), 9)


def windows(rows: int = T + 1) -> Window:
    """Two windows: one with a terminal end in it, one with an end by time."""
    rng = np.random.default_rng(0)
    last = np.zeros((rows, B), bool)
    last[2, 0] = last[3, 1] = True
    first = np.roll(last, 1, 0)
    discount = np.ones((rows, B))
    discount[2, 0] = 0
    steps = Step(
        rng.normal(size=(rows, B, OBS)), rng.integers(0, ACTIONS, (rows, B)) * ~last,
        3 * rng.normal(size=(rows, B)) * ~first, discount, first, last,
        Latent(rng.normal(size=(rows, B, 6)), np.eye(3)[rng.integers(0, 3, (rows, B, 2))]),
    )  # fmt: skip
    steps = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if x.dtype == np.float64 else jnp.asarray(x), steps)
    return Window(steps, jnp.array([4, 1], jnp.int32), jnp.array([1.0, 0.5]))


class Update(NamedTuple):
    """One update, and what it was made of."""

    cfg: Any
    nets: Any
    before: Any
    window: Window
    after: Any
    metrics: Any
    feedback: Any
    codes: np.ndarray  # [T, B, A] of the actions before each row
    tracked: Any  # [T, B, ...]
    steps: Any  # [H, T B, ...]
    outputs: Any  # [H + 1, T B] of the heads


@cache
def updated() -> Update:
    """An update from parameters none of which is 0 or 1, and its states and imagined trajectories by the same keys."""
    cfg, window, key = settings(), windows(), jax.random.key(3)
    agent, nets = dreamer_v3.make(cfg, SPEC), model.dreamer_v3(cfg.net, SPEC)
    rng = np.random.default_rng(1)
    before = jax.eval_shape(agent.init, jax.random.key(0))
    draw = lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape) + 0.1, leaf.dtype)  # noqa: E731
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), before)
    before = zeros._replace(params=jax.tree.map(draw, before.params), ema_critic=jax.tree.map(draw, before.ema_critic))
    after, metrics, feedback = jax.jit(lambda learner: agent.update(key, learner, always(window)))(before)

    # Row by row: the action taken in the row before, nothing where an episode starts.
    action, first = np.asarray(window.steps.action), np.asarray(window.steps.first)
    codes = np.zeros((T, B, ACTIONS), np.float32)
    for t in range(T):
        for b in range(B):
            codes[t, b, action[t, b]] = not first[t + 1, b]
    _, key_model, key_imagine = jax.random.split(key, 3)

    @jax.jit
    def again(params, codes):
        tokens = jax.vmap(jax.vmap(lambda obs: nets.encoder.apply(params.encoder, obs)))(window.steps.obs[1:])
        start = jax.tree.map(lambda leaf: leaf[0], window.steps.extras)
        track = jax.vmap(nets.rssm.track, (None, 0, 0, 1, 1, 1), 1)
        keys = jax.random.split(key_model, B)
        tracked = track(params.rssm, keys, start, codes, tokens, window.steps.first[1:])
        starts = jax.tree.map(lambda leaf: leaf.reshape(T * B, *leaf.shape[2:]), tracked.states)
        policy = make_policy(SPEC.action, cfg.actor_unimix)
        parts = {"ema_critic": before.ema_critic, "nets": nets, "policy": policy, "horizon": H}
        return tracked, imagine_trajectory(key_imagine, params, starts, **parts)

    tracked, (steps, outputs) = again(before.params, codes)
    return Update(cfg, nets, before, window, after, metrics, feedback, codes, tracked, steps, outputs)


# In NumPy -----------------------------------------------------------------------------------------------------------


def wide(x):
    return np.asarray(x, np.float64)


def net(params, x):
    """Layers with norm and activation, and a plain one last, over rows."""
    layers = jax.tree.map(wide, params["params"])
    layers = layers.get("inner", layers)
    last = sum(name.startswith("Dense") for name in layers) - 1
    for i in range(last + 1):
        x = x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"]
        if i < last:
            x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * layers[f"RMSNorm_{i}"]["scale"]
            x = x / (1 + np.exp(-x))
    return x


BINS = np.sign(np.linspace(-20, 20, 11)) * np.expm1(np.abs(np.linspace(-20, 20, 11)))


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def mean_of(logits):
    return np.exp(log_softmax(logits)) @ BINS


def cross(logits, target):
    """Cross-entropy against the two bins beside each target."""
    out = np.zeros(np.shape(target))
    for at in np.ndindex(*np.shape(target)):
        y = target[at]
        k = int(np.clip(np.searchsorted(BINS, y) - 1, 0, 9))
        weight = (y - BINS[k]) / (BINS[k + 1] - BINS[k])
        log_p = log_softmax(logits[at])
        out[at] = -(1 - weight) * log_p[k] - weight * log_p[k + 1]
    return out


def state_features(states):
    return np.concatenate([wide(states.deter), wide(states.stoch).reshape(T, B, -1)], -1)


def policy_terms(actor, feature, action):
    probs = 0.9 * np.exp(log_softmax(net(actor, feature))) + 0.1 / ACTIONS
    log_prob = np.log(np.take_along_axis(probs, np.asarray(action)[..., None], -1)[..., 0])
    return log_prob, -(probs * np.log(probs)).sum(-1)


def targets_by_numpy():
    """R, w and the scale of the imagined trajectories; G and its weights of the rows."""
    up = updated()
    r, c, v = (wide(x) for x in (up.outputs.reward, up.outputs.discount, up.outputs.value))
    returns, weight, so_far = np.zeros((H, T * B)), np.ones((H, T * B)), v[H]
    for t in reversed(range(H)):
        so_far = r[t + 1] + c[t + 1] * (0.2 * v[t + 1] + 0.8 * so_far)
        returns[t] = so_far
    for t in range(H):
        weight[t] = np.prod(c[: t + 1], 0)
    low, high = 0.5 * np.percentile(returns, 5), 0.5 * np.percentile(returns, 95)  # from 0, at a rate of 1/2
    row = jax.tree.map(lambda leaf: wide(leaf[1:]), up.window.steps._replace(extras=()))
    boot = returns[0].reshape(T, B)
    g = np.zeros((T, B))
    g[-1] = boot[-1]
    for t in reversed(range(T - 1)):
        lam = 0.8 * (1 - row.last[t + 1])
        onward = (1 - lam) * boot[t + 1] + lam * g[t + 1]
        g[t] = row.reward[t + 1] + 0.9 * row.discount[t + 1] * onward
    return returns, weight * np.tile([1.0, 0.5], T), max(1.0, high - low), g[:-1], (1 - row.last)[:-1] * [1.0, 0.5]


def behaviour_by_numpy(actor, critic):
    """L_π and L_v with everything but the parameters constant."""
    up = updated()
    returns, weight, scale, _, _ = targets_by_numpy()
    feature, v, ema = (wide(x) for x in (up.steps.feature, up.outputs.value[:-1], up.outputs.ema_value[:-1]))
    log_prob, entropy = policy_terms(actor, feature, up.steps.action)
    of_actor = (weight * -((returns - v) / scale * log_prob + 0.3 * entropy)).mean()
    logits = net(critic, feature)
    return of_actor, (weight * (cross(logits, returns) + 0.7 * cross(logits, ema))).mean(), entropy.mean()


def rows_by_numpy(critic):
    """L_rv likewise."""
    up = updated()
    _, _, _, g, weight = targets_by_numpy()
    feature = state_features(up.tracked.states)[:-1]
    ema = mean_of(net(up.before.ema_critic, feature))
    logits = net(critic, feature)
    return (weight * (cross(logits, g) + 0.7 * cross(logits, ema))).mean()


def model_by_numpy(decoder, reward, cont):
    up = updated()
    q, p = wide(up.tracked.posterior), wide(up.tracked.prior)
    kl = (np.exp(q) * (q - p)).sum((-2, -1))
    row = jax.tree.map(lambda leaf: wide(leaf[1:]), up.window.steps._replace(extras=()))
    feature = state_features(up.tracked.states)
    prediction = net(decoder, feature)
    squashed = np.sign(row.obs) * np.log1p(np.abs(row.obs))
    z, y = net(cont, feature)[..., 0], 0.9 * row.discount
    return {
        "kl_loss": (1.5 + 0.3) * np.maximum(0.2, kl),
        "decoder_loss": ((prediction - squashed) ** 2).sum(-1),
        "reward_loss": cross(net(reward, feature), row.reward),
        "continue_loss": -y * np.log(1 / (1 + np.exp(-z))) - (1 - y) * np.log(1 / (1 + np.exp(z))),
        "kl": kl,
    }
