"""Reading a model: sensitivities of its predictions, what its memory holds, and what its latents draw.

sensitivities   ∂Δo_i / ∂x_j of an ensemble on the continuous cart-pole, x = [o, a], beside those of the simulator,
                in spreads of x_j and of the change Δo_i
memory          the pendulum's hidden angular velocity, by least squares on the state of a GRU that was trained to
                predict what is seen (`trouble_memory`)
latents         a variational autoencoder of pictures of the pendulum, 16 x 16 in grey: what changes in the picture
                when one latent does, and cos θ and sin θ by least squares on the latents
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from figures import trouble_memory
from figures.common import canvas, compiled, keys, save, show, timed, write_csv
from figures.trouble_overfitting import in_use, random_rows
from figures.troubles import difference, interval
from mbrl_jax import presets
from mbrl_jax.core.types import Array, Box, Key
from mbrl_jax.envs import cartpole
from mbrl_jax.envs.registry import make_env
from mbrl_jax.models.dynamics.fit import FitConfig, fit_ensemble, init_ensemble
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian
from mbrl_jax.models.world_models.vae import VAEConfig, vae, vae_loss
from mbrl_jax.nets.observations import CoderConfig

ROWS, MEMBERS, LATENT, SIDE = (200, 2_000), 5, 3, 16
NAMES = ("x", "ẋ", "θ", "θ̇")
HEAD = ("what", "of", "seed", "value")


# Sensitivities -------------------------------------------------------------------------------------------------------


def true_change(x: Array) -> Array:
    """Δo [4] of the continuous cart-pole, from x = [o, a] [5]."""
    force = cartpole.FORCE * jnp.clip(x[4], -1.0, 1.0)
    return cartpole.euler(cartpole.BALANCE, x[:4], force, cartpole.BALANCE_STEP) - x[:4]


def sensitivities(key: Key, rows: Array, most: int) -> dict[str, Array]:
    """One seed of an ensemble: its error and sensitivities on new rows, beside the simulator's.

    Args:
      key: used once.
      rows: [] number of rows, at most `most`.
      most: rows that are collected; the first `rows` of them count.
    Returns:
      `error` [] of the change one step ahead, in spreads; `member` and `mean` [], relative errors of the sensitivities
      of one member and of the members' mean, Frobenius norms over rows; `learned` and `real` [4, 5], means over rows.
    """
    env = presets.suited("pets", make_env("ContinuousCartPole"))
    key_rows, key_new, key_init, key_fit = jax.random.split(key, 4)
    data, new = (random_rows(k, env, n) for k, n in ((key_rows, most), (key_new, 500)))
    cfg = FitConfig(members=MEMBERS, elites=MEMBERS, batch=64, max_epochs=100)
    member = gaussian(GaussianConfig(hidden=(64, 64)), env.spec)
    moments = member.moments
    assert moments is not None
    start = init_ensemble(key_init, model=member, cfg=cfg)
    fitted, _ = fit_ensemble(key_fit, start, in_use(data, rows), model=member, cfg=cfg)
    x = jnp.concatenate([new.obs, new.action], 1)
    change = jax.vmap(true_change)(x)
    unit = x.std(0) / change.std(0)[:, None]  # [4, 5]

    def learned_change(params: Any, x: Array) -> Array:
        return moments(params, x[:4], x[4:])[0][:4] - x[:4]

    learned = jax.vmap(lambda p: jax.vmap(jax.jacobian(lambda x: learned_change(p, x)))(x))(fitted.params) * unit
    real = jax.vmap(jax.jacobian(true_change))(x) * unit
    off = jax.vmap(lambda p: jax.vmap(lambda x: learned_change(p, x))(x))(fitted.params).mean(0) - change
    norm = lambda a: jnp.sqrt(jnp.mean(jnp.sum(jnp.square(a), (-2, -1))))  # noqa: E731
    return {
        "error": jnp.sqrt(jnp.mean(jnp.square(off / change.std(0)))),
        "member": norm(learned[0] - real) / norm(real),
        "mean": norm(learned.mean(0) - real) / norm(real),
        "learned": learned.mean((0, 1)),
        "real": real.mean(0),
    }


# What a memory holds -------------------------------------------------------------------------------------------------


def explained(x: Array, y: Array) -> tuple[Array, Array]:
    """R² [] on the second half of the rows of least squares on the first half, and the predictions there [N / 2, K].

    Args:
      x: [N, D].
      y: [N, K].
    """
    x = jnp.concatenate([x, jnp.ones((len(x), 1))], 1)
    half = len(x) // 2
    gram = x[:half].T @ x[:half] + 1e-4 * half * jnp.eye(x.shape[1])
    guess = x[half:] @ jnp.linalg.solve(gram, x[:half].T @ y[:half])
    rest = jnp.sum(jnp.square(guess - y[half:]))
    return 1.0 - rest / jnp.sum(jnp.square(y[half:] - y[half:].mean(0))), guess


def held(key: Key, kind: str, steps: int) -> dict[str, Array]:
    """One seed: R² of the hidden velocity from what is seen and a memory of `trouble_memory.MODELS`."""
    env = trouble_memory.world("hidden")
    key_rows, key_new, key_train = jax.random.split(key, 3)
    data, new = (trouble_memory.episodes(k, env, n, 200) for k, n in ((key_rows, 20), (key_new, 10)))
    fit = trouble_memory.model_of(kind, env, data)
    params = trouble_memory.trained(key_train, fit, env, data, steps, trouble_memory.WINDOW, trouble_memory.BURN)
    memories, _ = jax.vmap(lambda row: trouble_memory.along(fit, params, env, row))(new)
    read = jax.vmap(jax.vmap(fit.memory.read))(memories) if fit.memory.size else jnp.zeros((*new.reward.shape, 0))
    # The step moves θ by 0.05 s times the new velocity; what is sought is the one before the action.
    angle = jnp.arctan2(new.obs[..., 1], new.obs[..., 0])
    moved = angle[:, 1:] - angle[:, :-1]
    velocity = (jnp.arctan2(jnp.sin(moved), jnp.cos(moved)) / 0.05)[:, trouble_memory.BURN :]  # on arriving at a row
    seen = jnp.concatenate([read, new.obs], -1)[:, 1 + trouble_memory.BURN :]
    flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    fraction, guess = explained(flat(seen), flat(velocity[..., None]))
    return {"r2": fraction, "guess": guess[:, 0], "real": velocity.reshape(-1)[-len(guess) :]}


# What latents draw ---------------------------------------------------------------------------------------------------


def pictures(key: Key, count: int) -> tuple[Array, Array]:
    """Pictures [N, 256] of the pendulum at random angles, in grey from 0 to 1; cos θ and sin θ [N, 2]."""
    env = make_env("Pendulum-pixels")

    def one(key: Key) -> tuple[Array, Array]:
        state, picture = env.reset(key)
        grey = jnp.mean(picture.astype(jnp.float32), -1) / 255.0
        angle = jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta)])
        return grey.reshape(SIDE, 2, SIDE, 2).mean((1, 3)).reshape(-1), angle

    return jax.vmap(one)(jax.random.split(key, count))


def traversed(key: Key, steps: int) -> dict[str, Array]:
    """One seed: R² of cos θ and sin θ from the latents, and pictures along each latent [Z, 7, 256] from a real one."""
    key_data, key_init, key_train = jax.random.split(key, 3)
    seen, angle = pictures(key_data, 1_000)
    coder = CoderConfig()
    model = vae(VAEConfig(latent=LATENT, tolerance=0.0, coder=coder), Box((SIDE * SIDE,)))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    params = model.init(key_init)

    def step(at: tuple[Any, Any], key: Key) -> tuple[tuple[Any, Any], None]:
        key_rows, key_loss = jax.random.split(key)
        batch = seen[jax.random.randint(key_rows, (64,), 0, len(seen))] * 4.0  # squared errors of some nats
        grads = jax.grad(lambda p: vae_loss(p, key_loss, batch, model=model, tolerance=0.0)[0])(at[0])
        updates, opt = optimizer.update(grads, at[1])
        return (optax.apply_updates(at[0], updates), opt), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key_train, steps))
    mean, std = jax.vmap(lambda o: model.encode(params, 4.0 * o))(seen)
    steps_along = jnp.linspace(-2.0, 2.0, 7)
    order = jnp.argsort(jnp.mean(std, 0))  # what says most first
    along = lambda i: jax.vmap(lambda by: model.decode(params, mean[0].at[i].set(by)) / 4.0)(steps_along)  # noqa: E731
    return {"r2": explained(mean, angle)[0], "drawn": jax.vmap(along)(order), "std": jnp.mean(std, 0)[order]}


# All of it -----------------------------------------------------------------------------------------------------------


def reading(
    out: Path, seeds: int = 8, rows: Sequence[int] = ROWS, steps: int = 2_000, first: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Fits, measures, and writes `reading.csv` and `reading.png`.

    Args:
      out: folder.
      seeds: of each, at least 2.
      rows: that the ensembles are fitted to.
      steps: gradient steps of memories and autoencoders.
      first: the first seed.
    Returns:
      what the functions of this module return [seeds], by rows, by memory, and "latents".
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    at, most = keys(seeds, first), max(rows)
    program, _ = compiled(jax.vmap(lambda key, n: sensitivities(key, n, most), (0, None)), at, jnp.int32(1))
    for n in rows:
        found[str(n)] = timed(program, at, jnp.int32(n))[0]
    for kind in trouble_memory.MODELS:
        program, _ = compiled(jax.vmap(lambda key, kind=kind: held(key, kind, steps)), at)
        found[kind] = timed(program, at)[0]
    program, _ = compiled(jax.vmap(lambda key: traversed(key, steps)), at)
    found["latents"] = timed(program, at)[0]
    table = [
        (what, name, first + i, float(own[what][i]))
        for name, own in found.items()
        for what in ("error", "member", "mean", "r2")
        if what in own
        for i in range(seeds)
    ]
    write_csv(out / "reading.csv", HEAD, table)
    report(found, rows)
    draw(out / "reading.png", found, rows)
    return found


def report(found: dict[str, dict[str, np.ndarray]], rows: Sequence[int]) -> None:
    """Prints means with intervals, and differences."""
    columns = ("error", "member", "mean")
    show("Continuous cart-pole: error of the change, and relative errors of its sensitivities",
         ("rows", "error", "one member", "mean of members", "mean less one"),
         [(str(n), *(interval(found[str(n)][c]) for c in columns),
           difference(found[str(n)]["mean"], found[str(n)]["member"])) for n in rows])  # fmt: skip
    show("R² of the hidden velocity", ("memory", "R²", "less that without memory"),
         [(k, interval(found[k]["r2"]), difference(found[k]["r2"], found["memoryless"]["r2"]))
          for k in trouble_memory.MODELS])  # fmt: skip
    print(f"\nR² of cos θ and sin θ from {LATENT} latents: {interval(found['latents']['r2'])}")
    print("mean deviations of the latents' posteriors, first seed:", found["latents"]["std"][0].round(2))


def draw(path: Path, found: dict[str, dict[str, np.ndarray]], rows: Sequence[int]) -> None:
    """Draws the first seed's sensitivities beside the real ones, the velocity that its memory holds, and traversals."""
    figure, panels = canvas(5, 15.5, 3.3)
    shown = (("real", found[str(max(rows))]["real"][0]),
             *((f"learned, {n:,} rows", found[str(n)]["learned"][0]) for n in sorted(rows)[::-1]))  # fmt: skip
    most = max(abs(values).max() for _, values in shown)
    for axes, (title, values) in zip(panels, shown[:3], strict=False):
        axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set_xticks(range(5), [*NAMES, "a"])
        axes.set_yticks(range(4), [f"Δ{name}" for name in NAMES])
        axes.set_title(title, fontsize=10)
        axes.grid(visible=False)
        for i, j in np.ndindex(values.shape):
            if abs(values[i, j]) >= 0.05:
                light = abs(values[i, j]) > 0.6 * most
                axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7,
                          color="white" if light else "black")  # fmt: skip
    own, axes = found["recurrent"], panels[3]
    axes.scatter(own["real"][0], own["guess"][0], s=3, alpha=0.4, linewidths=0)
    ends = [own["real"][0].min(), own["real"][0].max()]
    axes.plot(ends, ends, ":", color="black")
    axes.set(xlabel="hidden velocity, rad/s", ylabel="read from the memory")
    drawn = found["latents"]["drawn"][0]  # [Z, 7, 256]
    image = drawn.reshape(*drawn.shape[:2], SIDE, SIDE).transpose(0, 2, 1, 3).reshape(len(drawn) * SIDE, -1)
    panels[4].imshow(image, cmap="gray", vmin=0, vmax=1)
    panels[4].set_xticks([(i + 0.5) * SIDE for i in (0, 3, 6)], ["-2", "0", "2"])
    panels[4].set_yticks([(i + 0.5) * SIDE for i in range(len(drawn))], [f"z{i + 1}" for i in range(len(drawn))])
    panels[4].grid(visible=False)
    panels[4].set_title("pictures along each latent", fontsize=10)
    save(path, figure)
