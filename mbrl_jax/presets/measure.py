"""What the model of a run predicts, beside what happened: errors by horizon, calibration, and where to trust it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.analysis import calibration, model_error, trust
from mbrl_jax.analysis.calibration import Calibration
from mbrl_jax.analysis.model_error import Errors
from mbrl_jax.analysis.trust import Trust
from mbrl_jax.buffers.uniform import Ring
from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Array, Box, Discrete, Key, MultiDiscrete, Obs, State, Transition
from mbrl_jax.presets import collect
from mbrl_jax.presets.loaded import Run
from mbrl_jax.presets.probe import ONE_OUTCOME, Probe, probe
from mbrl_jax.presets.seen import as_seen

ACTIONS = ("policy", "sampled", "random")
LINEAR_MOST = 64
"""Entries of an observation up to which the linear baseline is fitted."""


class Plan(NamedTuple):
    """What is measured where."""

    actions: str = "policy"  # in `ACTIONS`
    episodes: int = 8  # N, each of a copy of the environment
    steps: int = 200  # rows of an episode at most
    starts: int = 16  # of each episode, evenly spread over it
    horizon: int = 20  # steps ahead
    draws: int = 4  # rollouts of each member from each start; 1 where they would be the same
    context: int | None = None  # observations seen before the first start; the agent's own if None


class Predicted(NamedTuple):
    """Open-loop predictions of N starts, by kind: "observation", "latent", "reward", "value"."""

    predicted: dict[str, np.ndarray]  # [N, R, H, D], rollouts of the first member first
    real: dict[str, np.ndarray]  # [N, H, D]
    first: dict[str, np.ndarray]  # [N, D] the same at the start
    names: dict[str, tuple[str, ...]]
    alive: np.ndarray  # [N, H] bool
    linear: dict[str, np.ndarray]  # [N, H, D] of the linear baseline, where there is one
    place: np.ndarray  # [N, ...] observations at the starts
    action: np.ndarray  # [N, ...] actions there
    members: int


class Episodes(NamedTuple):
    """Real episodes in the form that an agent sees, each in rows from its start."""

    rows: Transition  # [N, T, ...]
    alive: np.ndarray  # [N, T] bool: rows of the first episode
    length: np.ndarray  # [N]


# Episodes -----------------------------------------------------------------------------------------------------------


def real_episodes(run: Run, key: Key, plan: Plan) -> Episodes:
    """Episodes of a run's environment.

    Args:
      run: of an agent that sees observations.
      key: used once.
      plan: their number, length and actions.
    """
    limit = run.env.spec.time_limit
    steps = plan.steps if limit is None else min(plan.steps, limit)
    rows = collect.episodes(run.loaded, key, steps, plan.episodes, plan.actions)
    raw, space = run.loaded.raw.spec.obs, run.env.spec.obs
    seen = jax.jit(jax.vmap(jax.vmap(lambda obs: as_seen(obs, raw, space))))
    rows = rows._replace(obs=jax.device_get(seen(rows.obs)), next_obs=jax.device_get(seen(rows.next_obs)))
    over = np.cumsum(rows.last, axis=1) - rows.last > 0
    return Episodes(rows, ~over, (~over).sum(axis=1))


def _starts(length: np.ndarray, context: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps [N, S] evenly spread over each episode from the context on, and whether [N, S] they are of any use."""
    first = context - 1
    at = first + np.outer(np.maximum(length - 1 - first, 0), np.linspace(0.0, 1.0, count)).round().astype(int)
    new = np.concatenate([np.ones((len(at), 1), bool), np.diff(at, axis=1) > 0], axis=1)
    return at, new & (at < length[:, None])


def _code(space: Any, action: np.ndarray) -> np.ndarray:
    """Actions [..., A] as vectors."""
    if isinstance(space, Discrete):
        return np.eye(space.n)[action]
    if isinstance(space, MultiDiscrete):
        return np.concatenate([np.eye(n)[action[..., i]] for i, n in enumerate(space.nvec)], axis=-1)
    return action.reshape(*action.shape[: action.ndim - len(space.shape)], -1)


# Predictions --------------------------------------------------------------------------------------------------------


def predict(run: Run, key: Key, plan: Plan, model: Probe | None = None) -> Predicted:
    """Open-loop predictions of a run's model along real episodes.

    Half as many episodes more are played for the linear baseline.

    Args:
      run: of an agent in `probe.MEASURED`.
      key: used once.
      plan: episodes, starts, horizon and draws.
      model: the run's, where it is there already.
    Raises:
      ValueError: a run without such a model, or no episode that lasts longer than the context.
    """
    model = probe(run) if model is None else model
    context = model.context if plan.context is None else plan.context
    key_play, key_fit, key_model = jax.random.split(key, 3)
    played = real_episodes(run, key_play, plan)
    at, useful = _starts(played.length, context, plan.starts)
    if not useful.any():
        longest = int(played.length.max())
        raise ValueError(f"context must be at most {longest}, the steps of the longest episode, got {context}")
    found = _open_loop(model, plan, played.rows, at, key_model)
    index = np.arange(plan.horizon)[None, None] + at[..., None]  # [N, S, H]
    steps = played.alive.shape[1]
    alive = (index < played.length[:, None, None]) & useful[..., None]
    place = np.minimum(index, steps - 1)
    returns = _returns(model, played, key_model) if "value" in model.outputs else None

    def along(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values[:, None], place.reshape(*place.shape, *[1] * (values.ndim - 2)), axis=2)

    reward = np.asarray(played.rows.reward, np.float64)
    real = {"reward": along(reward)[..., None]}
    for kind, output in model.outputs.items():
        real[kind] = along(returns[..., None]) if output.real is None else along(found["real", kind])  # pyright: ignore
    before = np.take_along_axis(reward, np.maximum(at - 1, 0), axis=1)
    first = {"reward": np.where(at > 0, before, reward[played.alive].mean())[..., None]}
    first |= {kind: found["first", kind] for kind in model.outputs}
    kept = useful.reshape(-1)
    flat = lambda x: np.asarray(x).reshape(-1, *np.shape(x)[2:])[kept]  # noqa: E731
    names = {"reward": ("reward",)} | {kind: output.names for kind, output in model.outputs.items()}
    starting = flat(np.take_along_axis(
        played.rows.obs, at.reshape(*at.shape, *[1] * (played.rows.obs.ndim - 2)), axis=1))  # fmt: skip
    actions = along(_code(run.env.spec.action, np.asarray(played.rows.action)))
    return Predicted(
        {kind: flat(found["predicted", kind]) for kind in names},
        {kind: flat(real[kind]) for kind in names},
        {kind: flat(first[kind]) for kind in names},
        names,
        flat(alive),
        _linear(run, key_fit, plan, starting, flat(actions)),
        starting,
        flat(along(np.asarray(played.rows.action)))[:, 0],
        model.members,
    )


def _open_loop(model: Probe, plan: Plan, rows: Transition, at: np.ndarray, key: Key) -> dict[tuple[str, str], Any]:
    """("predicted", kind) -> [N, S, R, H, D]; ("first", kind) -> [N, S, D]; ("real", kind) -> [N, T, D]."""
    draws = plan.draws if model.random else 1

    def of_state(key: Key, state: State) -> dict[str, Array]:
        return {kind: jnp.atleast_1d(output.predicted(key, state)) for kind, output in model.outputs.items()}

    def rollout(i: Array, key: Key, state: State, actions: Action) -> dict[str, Array]:
        def one(state: State, at: tuple[Array, Action]) -> tuple[State, dict[str, Array]]:
            step, action = at
            key_step, key_out = jax.random.split(jax.random.fold_in(key, step))
            out = model.step(i, key_step, state, action)
            return out.state, of_state(key_out, out.state) | {"reward": jnp.reshape(out.reward, 1)}

        return jax.lax.scan(one, state, (jnp.arange(plan.horizon), actions))[1]

    def from_start(key: Key, states: State, actions: Action, t: Array) -> tuple[Any, Any]:
        state = tree.take(states, t)
        along = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, t, plan.horizon), actions)
        each = lambda i: jax.vmap(lambda k: rollout(i, k, state, along))(jax.random.split(key, draws))  # noqa: E731
        out = jax.vmap(each)(jnp.arange(model.members))
        return tree.flatten_dims(out, 2), of_state(key, state)

    def episode(key: Key, obs: Obs, next_obs: Obs, action: Action, at: Array) -> Any:
        key_track, key_starts, key_real = jax.random.split(key, 3)
        states = model.track(key_track, obs, action)
        more = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], plan.horizon, 0)]), action)
        keys = jax.random.split(key_starts, at.shape[0])
        predicted, first = jax.vmap(from_start, (0, None, None, 0))(keys, states, more, at)
        real = {
            kind: jax.vmap(lambda obs, real=output.real: real(key_real, obs))(next_obs)
            for kind, output in model.outputs.items()
            if output.real is not None
        }
        return predicted, first, real

    run = jax.jit(jax.vmap(episode))
    keys = jax.random.split(key, at.shape[0])
    parts = jax.device_get(run(keys, rows.obs, rows.next_obs, rows.action, jnp.asarray(at)))
    return {
        (part, kind): values
        for part, by_kind in zip(("predicted", "first", "real"), parts, strict=True)
        for kind, values in by_kind.items()
    }


def _returns(model: Probe, played: Episodes, key: Key) -> np.ndarray:
    """The returns [N, T] that follow each row, with the model's value where an episode is cut off."""
    value, rows = model.outputs["value"].predicted, played.rows

    def of(obs: Obs) -> Array:
        tracked = model.track(key, obs, jax.tree.map(lambda leaf: leaf[: obs.shape[0]], rows.action[0]))
        return jax.vmap(lambda state: value(key, state))(tracked)

    beyond = np.asarray(jax.jit(jax.vmap(of))(rows.next_obs), np.float64)
    reward, discount = np.asarray(rows.reward, np.float64), np.asarray(rows.discount, np.float64)
    out, after = np.zeros_like(reward), np.zeros(len(reward))
    for t in reversed(range(reward.shape[1])):
        cut = rows.last[:, t] if t + 1 < reward.shape[1] else np.ones(len(reward), bool)
        out[:, t] = np.where(discount[:, t] == 0, 0.0, np.where(cut, beyond[:, t], after))
        after = reward[:, t] + model.gamma * out[:, t]
    return out


def _linear(run: Run, key: Key, plan: Plan, first: np.ndarray, actions: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions of the linear baseline; none for large or pictured observations."""
    space = run.env.spec.obs
    if not isinstance(space, Box) or len(space.shape) != 1 or space.size > LINEAR_MOST:
        return {}
    played = real_episodes(run, key, plan._replace(episodes=max(1, plan.episodes // 2)))
    kept = jax.tree.map(lambda leaf: leaf[played.alive], played.rows._replace(extras=()))
    fitted = model_error.fit_linear(kept.obs, _code(run.env.spec.action, kept.action), kept.reward, kept.next_obs)
    seen, reward = model_error.roll_linear(fitted, first, actions)
    return {"observation": seen, "reward": reward[..., None]}


# Measures -----------------------------------------------------------------------------------------------------------


def errors(run: Run, key: Key, plan: Plan = Plan()) -> dict[str, Errors]:
    """Errors of a run's model by the number of steps ahead, of each kind of thing that it predicts.

    Args:
      run: of an agent in `probe.MEASURED`.
      key: used once.
      plan: episodes, starts, horizon and draws.
    Returns:
      by kind: "observation" for models over observations and with a decoder, "latent" for TD-MPC2's, "value" for
      MuZero's, "reward" for all.
    Raises:
      ValueError: as `predict`, or if nothing that is predicted changes.
    """
    found = predict(run, key, plan)
    out = {}
    for kind in sorted(found.names):
        scale = model_error.spread(found.real[kind], found.alive)
        if not (scale > model_error.STILL).any():
            continue
        baselines = {"persistence": model_error.persistence(found.first[kind], plan.horizon)}
        baselines |= {"linear": found.linear[kind]} if kind in found.linear else {}
        out[kind] = model_error.horizon_errors(
            found.predicted[kind], found.real[kind], found.alive, members=found.members, names=found.names[kind],
            scale=scale, baselines=baselines,
        )  # fmt: skip
    if not out:
        raise ValueError("errors are measured in spreads of what happened, but nothing changes in these episodes")
    return out


class Calibrated(NamedTuple):
    """Calibration of one kind of prediction, and its errors in bins of the predicted standard deviation."""

    calibration: Calibration
    bins: tuple[np.ndarray, np.ndarray]  # predicted standard deviation [B] and error [B], in spreads


def calibrate(run: Run, key: Key, plan: Plan = Plan()) -> dict[str, Calibrated]:
    """Calibration of a run's model on real episodes, one step and more steps ahead.

    One step of an ensemble by its members' normal distributions: all members as a mixture, and each alone, on average.
    More steps, and other models, by the ranks of what happened among sampled rollouts.

    Args:
      run: of an agent in `probe.MEASURED` whose model predicts more than one outcome.
      key: used once.
      plan: episodes, starts and horizon; `draws` of rollouts, at least 8 of all members together.
    Returns:
      by label: "1 step, all members", "1 step, one member", "5 steps", ...
    Raises:
      ValueError: as `predict`, or a model that predicts one outcome.
    """
    _refuse_one_outcome(run, "calibration needs")
    model = probe(run)
    key_rows, key_rollouts = jax.random.split(key)
    out = {} if model.moments is None else _one_step(run, key_rows, plan, model)
    draws = max(plan.draws, -(-32 // model.members)) if model.random else 1
    found = predict(run, key_rollouts, plan._replace(draws=draws), model)
    kinds = [kind for kind in ("observation", "reward") if kind in found.names]
    drawn, real = (np.concatenate([part[kind] for kind in kinds], axis=-1) for part in (found.predicted, found.real))
    for ahead in sorted({1, min(5, plan.horizon), plan.horizon}):
        use = found.alive[:, ahead - 1]
        label = f"{ahead} step{'s' if ahead > 1 else ''}"
        if (ahead == 1 and out) or use.sum() < 2:
            continue
        mine, happened = drawn[use, :, ahead - 1], real[use, ahead - 1]
        scale = happened.std(axis=0)
        if not (scale > model_error.STILL).any():
            continue
        off = np.abs(mine.mean(axis=1) - happened) / np.where(scale > model_error.STILL, scale, np.inf)
        wide = mine.std(axis=1) / np.where(scale > model_error.STILL, scale, np.inf)
        moves = scale > model_error.STILL
        bins = calibration.variance_bins(wide[:, moves], off[:, moves])
        out[label] = Calibrated(calibration.of_samples(mine, happened), bins)
    if not out:
        raise ValueError("calibration needs at least two steps in which something changes, got none")
    return out


def _refuse_one_outcome(run: Run, what: str) -> None:
    if run.algo in ONE_OUTCOME:
        raise ValueError(f"{what} a model that predicts more than one outcome, {run.algo} has one without noise")


def _one_step(run: Run, key: Key, plan: Plan, model: Probe) -> dict[str, Calibrated]:
    """Calibration of an ensemble's normal distributions, one step ahead."""
    played = real_episodes(run, key, plan)
    rows = jax.tree.map(lambda leaf: leaf[played.alive], played.rows._replace(extras=()))
    mean, std = _moments(model, rows.obs, rows.action)
    real = np.concatenate([rows.next_obs, rows.reward[:, None]], axis=1)
    moves = real.std(axis=0) > model_error.STILL
    scale = real.std(axis=0)[moves]
    wide = np.sqrt(np.mean(np.square(std), axis=1) + mean.var(axis=1))[:, moves] / scale
    off = (mean.mean(axis=1) - real)[:, moves] / scale
    out = {
        "1 step, all members": Calibrated(calibration.of_moments(mean, std, real), calibration.variance_bins(wide, off))
    }
    if model.members > 1 and np.all(std > 0):
        alone = [calibration.of_moments(mean[:, [i]], std[:, [i]], real) for i in range(model.members)]
        of_one = [np.mean([getattr(one, name) for one in alone]) for name in ("sharpness", "error", "nll")]
        joined = Calibration(
            alone[0].levels, np.mean([one.coverage for one in alone], axis=0), len(real),
            np.mean([one.entries for one in alone], axis=0), *map(float, of_one),
        )  # fmt: skip
        out["1 step, one member"] = Calibrated(
            joined, calibration.variance_bins(std[..., moves] / scale, (mean - real[:, None])[..., moves] / scale)
        )
    return out


class Trusted(NamedTuple):
    """Where a run's model can be trusted."""

    trust: Trust
    kind: str  # of prediction
    ahead: int  # steps
    distance: np.ndarray | None  # [N] to the rows of the replay buffer, in their spreads; None where it holds none


def trusted(run: Run, key: Key, plan: Plan = Plan(horizon=1, draws=16)) -> Trusted:
    """Disagreement and error of a run's model, `plan.horizon` steps ahead, with the policy's actions and random ones.

    Args:
      run: of an agent in `probe.MEASURED` whose model has members, or draws its predictions.
      key: used once.
      plan: episodes of each kind of actions, starts, horizon and draws; its `actions` are not looked at.
    Raises:
      ValueError: as `predict`, or a model that cannot disagree with itself.
    """
    _refuse_one_outcome(run, "trust needs")
    model = probe(run)
    if model.members == 1 and not model.random:
        raise ValueError(f"trust needs fit.members of at least 2 for {run.algo}, whose members draw nothing, got 1")
    sources = ("policy", "random")
    keys = jax.random.split(key, len(sources))
    parts = [predict(run, k, plan._replace(actions=name), model) for k, name in zip(keys, sources, strict=True)]
    kind = "observation" if "observation" in parts[0].names else "reward"
    use = [part.alive[:, -1] for part in parts]
    joined = lambda pick: np.concatenate([pick(part)[keep] for part, keep in zip(parts, use, strict=True)])  # noqa: E731
    drawn, real = joined(lambda part: part.predicted[kind][:, :, -1]), joined(lambda part: part.real[kind][:, -1])
    if model.moments is not None and plan.horizon == 1:  # the members' means themselves, not those of some draws
        drawn = _means(model, joined(lambda part: part.place), joined(lambda part: part.action))
    scale = real.std(axis=0) if len(real) else np.zeros(1)
    scale = np.where(scale > model_error.STILL, scale, 0.0)
    if not scale.any():
        raise ValueError("trust is measured in spreads of what happened, but nothing changes in these episodes")
    moves = scale > 0
    apart = trust.disagreement(drawn, parts[0].members, scale)
    off = np.sqrt(np.mean(np.square((drawn.mean(axis=1) - real)[:, moves] / scale[moves]), axis=1))
    place = joined(lambda part: part.place.reshape(len(part.place), -1))
    source = np.concatenate([np.full(int(keep.sum()), i) for i, keep in enumerate(use)])
    found = Trust(apart, off, place, source, sources, trust.rank_correlation(apart, off))
    return Trusted(found, kind, plan.horizon, _distance(run, place))


def _means(model: Probe, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Mean next observations [N, M, D] of all members."""
    mean, _ = _moments(model, obs, action)
    return mean[..., :-1]


def _moments(model: Probe, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations [N, M, |o| + 1] of next observations and rewards, by member."""
    moments = model.moments
    assert moments is not None
    each = jax.vmap(lambda i, obs, action: moments(i, obs, action), (None, 0, 0))
    found = jax.jit(jax.vmap(each, (0, None, None)))(
        jnp.arange(model.members), jnp.asarray(obs, jnp.float32), jnp.asarray(action)
    )
    mean, std = (np.moveaxis(np.asarray(x, np.float64), 0, 1) for x in found)
    return mean, std


def _distance(run: Run, place: np.ndarray) -> np.ndarray | None:
    """Distances to the rows of the replay buffer, where it holds single rows of vectors."""
    ring = run.state.buffer
    if not isinstance(ring, Ring) or place.shape[1] > LINEAR_MOST:
        return None
    data = np.asarray(ring.rows.obs)[: int(ring.size)]
    data = data.reshape(len(data), -1)
    if data.shape[1] != place.shape[1] or not (data.std(axis=0) > model_error.STILL).any():
        return None
    return trust.distance_to_data(place, data)
