"""Trouble: a world that does not do the same thing twice. Five kinds of models of two one-dimensional worlds.

    noisy     x' = x + sin(2x) / 2 + 0.2 ε
    bimodal   x' = x + sin(2x) / 2 ± 0.6 + 0.05 ε,  each sign with probability one half

Each model predicts x' - x from x: a deterministic network by squared error, a Gaussian, a mixture of five Gaussians
(World Models' M without memory), and a model with categorical latents (the Dreamers', with a decoder of learned
width), trained by the evidence bound, or with the Dreamers' balance of the two halves of its KL. All have
two hidden layers of 32 units and the same rows and gradient steps. The energy distance
2 E|X - Y| - E|X - X'| - E|Y - Y'| is 0 for the true distribution alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from figures.common import canvas, compiled, keys, save, show, timed
from figures.troubles import difference, interval, write_seeds
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.core.types import Array, Key
from mbrl_jax.models.rssm.latents import categorical
from mbrl_jax.models.world_models.mdn_rnn import Mixture, log_prob
from mbrl_jax.models.world_models.mdn_rnn import sample as sample_mixture
from mbrl_jax.nets.mlp import mlp

ROWS, STEPS, BATCH, AHEAD = 2_000, 3_000, 128, 8
WORLDS = ("noisy", "bimodal")
MODELS = ("deterministic", "Gaussian", "mixture", "categorical latents", "latents, balanced")
HEAD = ("world", "model", "seed", "excess_nll", "energy_1_step", "energy_8_steps")
GROUPS, CLASSES = 2, 8
BALANCE = 0.1
"""Weight of the posterior's half of the KL beside the prior's, DreamerV3's."""


class Density(NamedTuple):
    """A model of the change y of a number x."""

    init: Callable[[Key], Any]
    loss: Callable[[Any, Key, Array, Array], Array]  # (params, key, x [], y []) -> []
    draw: Callable[[Any, Key, Array], Array]  # (params, key, x []) -> y []
    log_density: Callable[[Any, Array, Array], Array] | None  # (params, x [], y []) -> [] nats


def change(world: str, key: Key, x: Array) -> Array:
    """A true change of x."""
    key_sign, key_noise = jax.random.split(key)
    noise = jax.random.normal(key_noise)
    if world == "noisy":
        return 0.5 * jnp.sin(2 * x) + 0.2 * noise
    return 0.5 * jnp.sin(2 * x) + jnp.where(jax.random.bernoulli(key_sign), 0.6, -0.6) + 0.05 * noise


def true_log_density(world: str, x: Array, y: Array) -> Array:
    """log p(y | x), nats."""
    center = 0.5 * jnp.sin(2 * x)
    if world == "noisy":
        return jax.scipy.stats.norm.logpdf(y, center, 0.2)
    both = jnp.stack([jax.scipy.stats.norm.logpdf(y, center + s, 0.05) for s in (-0.6, 0.6)])
    return jax.nn.logsumexp(both) - jnp.log(2.0)


def density(kind: str) -> Density:
    """A model by its name in `MODELS`."""
    if kind == "deterministic":
        net = mlp(1, (32, 32), 1, "silu")
        mean = lambda params, x: net.apply(params, x[None])[0]  # noqa: E731
        return Density(net.init, lambda p, key, x, y: jnp.square(mean(p, x) - y), lambda p, key, x: mean(p, x), None)
    if kind in ("Gaussian", "mixture"):
        return _mixture(1 if kind == "Gaussian" else 5)
    return _latent(BALANCE if kind == "latents, balanced" else 1.0)


def _mixture(components: int) -> Density:
    """A mixture of Gaussians; one is a Gaussian."""
    net = mlp(1, (32, 32), 3 * components, "silu")

    def predict(params: Any, x: Array) -> Mixture:
        logits, mean, raw = net.apply(params, x[None]).reshape(3, 1, components)
        return Mixture(logits, mean, jnp.log(0.01) + jax.nn.softplus(raw - jnp.log(0.01)))

    def log_density(params: Any, x: Array, y: Array) -> Array:
        return jnp.squeeze(log_prob(predict(params, x), y[None]))

    return Density(
        net.init, lambda p, key, x, y: -log_density(p, x, y),
        lambda p, key, x: sample_mixture(key, predict(p, x))[0], log_density,
    )  # fmt: skip


def _latent(balance: float) -> Density:
    """z ~ q(z|x, y), groups of categoricals;  p(z|x), p(y|x, z) = N(m(x, z), s²).

    The loss is KL(sg q ‖ p) + b KL(q ‖ sg p) - log p(y|x, z): with b = 1 its gradient is that of the evidence bound.

    Args:
      balance: b; 1 for the evidence bound, below 1 to regularise the posterior less than the prior learns.
    """
    family = categorical(GROUPS, CLASSES, 0.01)
    prior, posterior = mlp(1, (32, 32), family.outputs, "silu"), mlp(2, (32, 32), family.outputs, "silu")
    decoder = mlp(1 + family.outputs, (32, 32), 1, "silu")
    codes = jnp.stack([
        jnp.stack([jax.nn.one_hot(a, CLASSES), jax.nn.one_hot(b, CLASSES)])
        for a in range(CLASSES) for b in range(CLASSES)
    ])  # fmt: skip

    def init(key: Key) -> Any:
        a, b, c = jax.random.split(key, 3)
        return {"p": prior.init(a), "q": posterior.init(b), "d": decoder.init(c), "log_std": jnp.zeros(())}

    def mean(params: Any, x: Array, z: Array) -> Array:
        return decoder.apply(params["d"], jnp.concatenate([x[None], z.reshape(-1)]))[0]

    def of(params: Any, x: Array) -> Any:
        return family.dist(prior.apply(params["p"], x[None]))

    def loss(params: Any, key: Key, x: Array, y: Array) -> Array:
        q, p = family.dist(posterior.apply(params["q"], jnp.stack([x, y]))), of(params, x)
        z = family.sample(q, family.noise(key, 1)[0])
        stop = jax.lax.stop_gradient
        kl = family.kl(stop(q), p) + balance * family.kl(q, stop(p))
        return kl - jax.scipy.stats.norm.logpdf(y, mean(params, x, z), jnp.exp(params["log_std"]))

    def draw(params: Any, key: Key, x: Array) -> Array:
        key_latent, key_noise = jax.random.split(key)
        z = family.sample(of(params, x), family.noise(key_latent, 1)[0])
        return mean(params, x, z) + jnp.exp(params["log_std"]) * jax.random.normal(key_noise)

    def log_density(params: Any, x: Array, y: Array) -> Array:
        """Over all 64 latents."""
        p = of(params, x)
        each = jax.vmap(lambda z: jnp.sum(z * p) + jax.scipy.stats.norm.logpdf(
            y, mean(params, x, z), jnp.exp(params["log_std"])))(codes)  # fmt: skip
        return jax.nn.logsumexp(each)

    return Density(init, loss, draw, log_density)


def energy_distance(drawn: Array, real: Array) -> Array:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of samples [K] and [K], without the pairs of a sample with itself."""
    pairs = lambda a, b: jnp.abs(a[:, None] - b[None])  # noqa: E731
    own = lambda a: pairs(a, a).sum() / (len(a) * (len(a) - 1))  # noqa: E731
    return 2 * pairs(drawn, real).mean() - own(drawn) - own(real)


def learned(world: str, kind: str, key: Key, rows: int, steps: int) -> dict[str, Array]:
    """One seed of one model: excess NLL, energy distances one step and 8 steps ahead, and samples at x = 0.5."""
    model = density(kind)
    key_x, key_y, key_init, key_train, key_test = jax.random.split(key, 5)
    x = jax.random.uniform(key_x, (rows,), minval=-3.0, maxval=3.0)
    y = jax.vmap(lambda key, x: change(world, key, x))(jax.random.split(key_y, rows), x)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def step(at: tuple[Any, Any], key: Key) -> tuple[tuple[Any, Any], None]:
        key_rows, key_loss = jax.random.split(key)
        index = jax.random.randint(key_rows, (BATCH,), 0, rows)
        of = lambda p: jnp.mean(jax.vmap(model.loss, (None, 0, 0, 0))(  # noqa: E731
            p, jax.random.split(key_loss, BATCH), x[index], y[index]))  # fmt: skip
        updates, opt = optimizer.update(jax.grad(of)(at[0]), at[1])
        return (optax.apply_updates(at[0], updates), opt), None

    params = model.init(key_init)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key_train, steps))

    def ahead(draw: Callable[[Key, Array], Array], key: Key, start: Array, count: int) -> Array:
        return jax.lax.scan(lambda x, k: (x + draw(k, x), None), start, jax.random.split(key, count))[0]

    def distance(key: Key, start: Array, count: int) -> Array:
        key_model, key_real = jax.random.split(key)
        mine = jax.vmap(lambda k: ahead(lambda k, x: model.draw(params, k, x), k, start, count))
        real = jax.vmap(lambda k: ahead(lambda k, x: change(world, k, x), k, start, count))
        return energy_distance(mine(jax.random.split(key_model, 256)), real(jax.random.split(key_real, 256)))

    starts, test_keys = jnp.linspace(-2.5, 2.5, 21), jax.random.split(key_test, 4)
    each = lambda key, count: jnp.mean(jax.vmap(lambda k, s: distance(k, s, count))(  # noqa: E731
        jax.random.split(key, len(starts)), starts))  # fmt: skip
    found = {"energy_1_step": each(test_keys[0], 1), "energy_8_steps": each(test_keys[1], AHEAD)}
    found["drawn"] = jax.vmap(lambda k: model.draw(params, k, jnp.float32(0.5)))(jax.random.split(test_keys[2], 2_000))
    if model.log_density is not None:
        log_density = model.log_density
        x = jnp.linspace(-3.0, 3.0, 2_000)
        y = jax.vmap(lambda key, x: change(world, key, x))(jax.random.split(test_keys[3], len(x)), x)
        excess = jax.vmap(lambda x, y: true_log_density(world, x, y) - log_density(params, x, y))(x, y)
        found["excess_nll"] = jnp.mean(excess)
    return found


def stochastic(
    out: Path, seeds: int = 8, rows: int = ROWS, steps: int = STEPS, first: int = 0
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Learns, measures, and writes `stochastic.csv` and `stochastic.png`.

    Args:
      out: folder.
      seeds: of each model and world, at least 2.
      rows: of data.
      steps: gradient steps.
      first: the first seed.
    Returns:
      by world and model: columns of the table [seeds].
    """
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for world in WORLDS:
        for kind in MODELS:
            at = keys(seeds, first)
            program, _ = compiled(jax.vmap(lambda key, w=world, k=kind: learned(w, k, key, rows, steps)), at)
            found[world, kind], (wall, _) = timed(program, at)
            print(f"{world}, {kind}: {wall:.0f} s", flush=True)
    write_seeds(out / "stochastic.csv", HEAD, found, first)
    report(found)
    draw(out / "stochastic.png", found)
    return found


def report(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> None:
    """Prints means with intervals, and differences from the Gaussian model."""
    cell = lambda own, c: interval(own[c]) if c in own else "-"  # noqa: E731
    rows = [(w, k, *(cell(own, c) for c in HEAD[3:])) for (w, k), own in found.items()]
    show("Mean over seeds and 95 % interval; NLL in nats above the truth's", ("world", "model", *HEAD[3:]), rows)
    rows = [
        (w, k, *(difference(own[c], found[w, "Gaussian"][c]) if c in own else "-" for c in HEAD[3:]))
        for (w, k), own in found.items()
        if k != "Gaussian"
    ]
    show("Less that of the Gaussian model", ("world", "model", *HEAD[3:]), rows)


def draw(path: Path, found: dict[tuple[str, str], dict[str, np.ndarray]]) -> None:
    """Draws what each model's first seed predicts at x = 0.5 beside the truth."""
    figure, panels = canvas(len(MODELS), 14.0, 5.0, len(WORLDS))
    for row, world in enumerate(WORLDS):
        y = np.linspace(-0.8, 1.6, 400)
        truth = np.exp(
            np.asarray(jax.vmap(lambda y, w=world: true_log_density(w, jnp.float32(0.5), y))(jnp.asarray(y)))
        )
        for column, kind in enumerate(MODELS):
            axes = panels[row * len(MODELS) + column]
            axes.hist(found[world, kind]["drawn"][0], bins=80, range=(-0.8, 1.6), density=True, color=COLOURS[column],
                      alpha=0.6)  # fmt: skip
            axes.plot(y, truth, color="black", linewidth=1)
            axes.set_ylim(0, 1.6 * truth.max())
            axes.set_title(f"{world}: {kind}", fontsize=9)
            axes.set_xlabel("change of x at x = 0.5")
    panels[0].set_ylabel("density; line: the truth")
    save(path, figure)
