"""Trouble: errors compound. MBPO with imagined rollouts of 1, 5, 15 and 50 steps, whole, or cut in one of two ways.

Networks of two layers of 64 units, 1,200 real steps, 20 updates each. Beside the return the errors of what the policy
learned from. At the end of a run, rollouts of the policy start in replayed states, in the model and in the true
dynamics with the same actions. The distance of the two observations is the error of a rollout, in standard deviations
of the replayed observations; that of one step from the imagined state is the error of a row, in standard deviations of
the replayed changes. One compiled program serves all lengths of a task's rollouts: the schedule's counter starts where
the length is the wanted one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import canvas, compiled, keys, save, show, timed, write_csv
from figures.troubles import difference, interval, read_cases, read_seeds, write_seeds
from mbrl_jax import presets
from mbrl_jax.agents import imagined_replay, mbpo
from mbrl_jax.agents.learned_model import gaussian_member
from mbrl_jax.agents.mbpo import MBPOConfig
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core.config import replace
from mbrl_jax.core.rollout import branch
from mbrl_jax.core.types import Agent, Array, Env, Key, Model, StepOut, Transition
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.loop import LoopConfig, LoopState, make_loop

TASKS = ("Pendulum-v1", "ContinuousCartPole", "CartPoleSwingUp")
HORIZONS: dict[str, tuple[int, ...]] = dict.fromkeys(TASKS, (1, 5, 15, 50))
ROLLOUTS, CHUNKS, LAST, SLOW = 256, 10, 3, 1_000
SMALL: dict[str, Any] = {
    "policy.hidden": (64, 64), "policy.batch": 64, "policy.lr": 1e-3, "model.hidden": (64, 64), "fit.members": 5,
    "fit.elites": 4, "fit.batch": 32, "fit.max_epochs": 30, "rollouts": ROLLOUTS, "retain": 4, "real_ratio": 0.25,
    "explorer": "none", "known.reward": "",
}  # fmt: skip
CUTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "cut": {"cut": True},
    "information": {"cut": True, "cut_by": "information", "cut_quantile": 0.99},
}
"""What ends rollouts early: nothing, disagreement of the members, or the information that is lost."""
LABELS = {"whole": "whole", "cut": "cut by disagreement", "information": "cut by information"}
HEAD = ("task", "horizon", "cut", "seed", "return", "rollout_error", "row_error", "steps")


class Setting(NamedTuple):
    """One kind of rollouts."""

    task: str
    horizon: int
    cut: str  # a key of CUTS


def all_settings(horizons: dict[str, tuple[int, ...]] = HORIZONS) -> list[Setting]:
    """Every length of each task's rollouts, whole and cut; the first step is never cut."""
    ways = [(t, h, cut) for t, own in horizons.items() for h in own for cut in CUTS]
    return [Setting(*way) for way in ways if way[1] > 1 or way[2] == "whole"]


def true_state(task: str, blank: Any, obs: Array) -> Any:
    """The state of the environment that has an observation.

    Args:
      task: a key of `HORIZONS`.
      blank: any state of its environment.
      obs: [D].
    """
    if task == "Pendulum-v1":
        return blank.replace(theta=jnp.arctan2(obs[1], obs[0]), theta_dot=obs[2])
    if task == "CartPoleSwingUp":
        x, x_dot, sin, cos, theta_dot = obs
        return blank._replace(inner=jnp.stack([x, x_dot, jnp.arctan2(sin, cos), theta_dot]))
    return blank._replace(inner=obs)


def drift(
    key: Key, agent: Agent, learner: mbpo.Learner, cfg: MBPOConfig, env: Env, task: str, rows: Transition, steps: int
) -> dict[str, Array]:
    """Rollouts of the policy in the model beside the same actions in the true dynamics.

    Args:
      key: used once.
      agent: MBPO.
      learner: what it has learned.
      cfg: its settings.
      env: the environment.
      task: its name.
      rows: [N, ...] replayed rows; rollouts start in their observations.
      steps: H.
    Returns:
      `rollout` [H, N], mean over entries of the squared distance from the true rollout, in spreads; `row` [H, N], the
      same of one step, in spreads of a change; `alive` [H, N] whether the model has not ended the rollout before;
      `kept` [H, N] whether the step is stored.
    """
    member = gaussian_member(cfg, env.spec)
    elites = imagined_replay.elites_of(member, learner.model)
    cut = mbpo.rollout_cut(cfg)(member, learner.model, rows)
    scale, change, at = jnp.std(rows.obs, axis=0), jnp.std(rows.next_obs - rows.obs, axis=0), elites.at
    blank = env.reset(jax.random.key(0))[0]
    observe = env.observe
    assert at is not None
    assert observe is not None

    def one(i: Array) -> Model:
        def step(key: Key, state: Any, action: Array) -> StepOut:
            out = at(i).step(key, state[0], action)
            spent = cut.spend(state[3], state[0], action)[0]
            return out._replace(state=(out.state, env.step(key, state[1], action)[0], state[2], spent))

        return Model(step)

    def policy(key: Key, state: Any) -> Array:
        return agent.act(key, learner, agent.carry(), state[0], True)[0]

    def truly(obs: Array, action: Array) -> Array:
        return env.step(jax.random.key(0), true_state(task, blank, obs), action)[1]

    def store(data: Any, done: Transition, alive: Array) -> Any:
        h, found = data
        off = (done.next_obs[0] - jax.vmap(observe)(done.next_obs[1])) / scale
        once = (done.next_obs[0] - jax.vmap(truly)(done.obs[0], done.action)) / change
        now = jax.vmap(cut.spend)(done.obs[3], done.obs[0], done.action)[1] | (h == 0)
        square = lambda x: jnp.mean(jnp.square(x), 1)  # noqa: E731
        row = {"rollout": square(off), "row": square(once), "alive": alive, "trusted": now}
        back = jnp.argsort(done.obs[2])  # rollouts are shuffled in every step
        return h + 1, {name: found[name].at[h].set(row[name][back]) for name in found}

    count = rows.reward.shape[0]
    spent = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), cut.start)
    states = (rows.obs, jax.vmap(lambda obs: true_state(task, blank, obs))(rows.obs), jnp.arange(count), spent)
    none = jnp.zeros((steps, count))
    start = (jnp.int32(0), {"rollout": none, "row": none, "alive": none > 0, "trusted": none > 0})
    pairs = Model(one(jnp.int32(0)).step, members=elites.members, at=one)
    found = branch(pairs, policy, key, states, steps, store, start)[1]
    going = jnp.cumprod(found.pop("trusted"), axis=0) > 0
    return found | {"kept": found["alive"] & (going if cfg.cut else True)}


def learned(task: str, cut: str, chunks: int, longest: int) -> Callable[[Key, Array], dict[str, Array]]:
    """(key, rollout length []) -> a run's mean returns [chunks], and the drift of its rollouts over `longest` steps."""
    env = presets.suited("mbpo", make_env(task))
    # One step longer after every SLOW refreshes, more than a run makes: a run begins where its length is reached.
    changes = SMALL | {"last_horizon": longest, "grow_until": SLOW * max(longest - 1, 1)} | CUTS[cut]
    cfg = replace(presets.preset("mbpo", task).agent, {"first_horizon": 1} | changes)
    agent = mbpo.make(cfg, env.spec)
    loop_cfg = LoopConfig(updates=20, inner=50, cycles=2, warmup=200, eval_episodes=4, capacity=200 + 100 * chunks)
    buffer = uniform(loop_cfg.capacity)

    def one(key: Key, length: Array) -> dict[str, Array]:
        key_run, key_rows, key_drift = jax.random.split(key, 3)
        begin = lambda key: agent.init(key)._replace(refreshes=SLOW * (length - 1))  # noqa: E731
        loop = make_loop(agent._replace(init=begin), env, buffer, loop_cfg)

        def chunk(state: LoopState, _: None) -> tuple[LoopState, Array]:
            state, done = loop.chunk(state)
            return state, jnp.mean(done.returns)

        state, returns = jax.lax.scan(chunk, loop.init(key_run), length=chunks)
        rows = buffer.replay(state.buffer).sample(key_rows, ROLLOUTS)._replace(extras=())
        return drift(key_drift, agent, state.learner, cfg, env, task, rows, longest) | {"returns": returns}

    return one


def summarised(setting: Setting, own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of the table [seeds], and errors of rollouts by steps ahead, over seeds [H].

    Errors are root mean squares over the rows that are stored of rollouts of the setting's length.
    """
    kept = own["kept"][:, : setting.horizon]
    over = lambda x: np.sqrt((x[:, : setting.horizon] * kept).sum((1, 2)) / kept.sum((1, 2)))  # noqa: E731

    def by_step(mask: np.ndarray) -> np.ndarray:
        return np.sqrt(np.sum(own["rollout"] * mask, (0, 2)) / np.maximum(mask.sum((0, 2)), 1))

    return {
        "return": own["returns"][:, -LAST:].mean(1),
        "rollout_error": over(own["rollout"]),
        "row_error": over(own["row"]),
        "steps": kept.sum((1, 2)) / kept.shape[2],
        "error_all": by_step(own["alive"]),
        "error_kept": by_step(own["kept"]),
        "share": own["kept"].mean((0, 2)),
    }


def compounding(
    out: Path, seeds: int = 8, settings: Sequence[Setting] | None = None, chunks: int = CHUNKS, first: int = 0
) -> dict[Setting, dict[str, np.ndarray]]:
    """Learns, measures, and writes `compounding.csv`, `compounding_by_step.csv` and `compounding.png`.

    What both tables hold of the same seeds is not run again.

    Args:
      out: folder.
      seeds: of each setting, at least 2.
      settings: `all_settings()` if None.
      chunks: of 100 real steps, after 200 random ones.
      first: the first seed.
    Returns:
      what `summarised` says of each setting.
    """
    found = recorded(out, range(first, first + seeds))
    programs: dict[tuple[str, str], Any] = {}
    settings, at = all_settings() if settings is None else settings, keys(seeds, first)
    longest = max(s.horizon for s in settings)
    for setting in settings:
        if setting in found:
            continue
        of = (setting.task, setting.cut)
        if of not in programs:
            programs[of] = compiled(jax.vmap(learned(*of, chunks, longest), (0, None)), at, jnp.int32(1))[0]
        got, (wall, _) = timed(programs[of], at, jnp.int32(setting.horizon))
        found[setting] = summarised(setting, got)
        shown = ", ".join(f"{c} {found[setting][c].mean():.3g}" for c in HEAD[4:])
        print(f"{setting.task}, {setting.horizon}, {setting.cut}: {shown}, {wall:.0f} s", flush=True)
        tables(out, found, seeds, first)
    found = {setting: found[setting] for setting in settings}
    tables(out, found, seeds, first)
    report(found)
    draw(out / "compounding.png", found)
    return found


def recorded(out: Path, seeds: Sequence[int]) -> dict[Setting, dict[str, np.ndarray]]:
    """What the tables of a folder hold of settings that were run with these seeds, as `summarised` said it."""
    steps = {"error_all": "error_all", "error_kept": "error_kept", "share": "share_kept"}
    by_step = read_cases(out / "compounding_by_step.csv", HEAD[:3])
    return {
        Setting(case[0], int(case[1]), case[2]): own
        | {c: np.array([float(row[name]) for row in by_step[case]]) for c, name in steps.items()}
        for case, own in read_seeds(out / "compounding.csv", HEAD, seeds).items()
        if case in by_step
    }


def tables(out: Path, found: dict[Setting, dict[str, np.ndarray]], seeds: int, first: int) -> None:
    """Writes both tables of the settings so far."""
    write_seeds(out / "compounding.csv", HEAD, {tuple(s): own for s, own in found.items()}, first)
    by_step = [
        (*s, h + 1, *(float(own[c][h]) for c in ("error_all", "error_kept", "share")))
        for s, own in found.items()
        for h in range(len(own["share"]))
    ]
    head = ("task", "horizon", "cut", "step", "error_all", "error_kept", "share_kept")
    write_csv(out / "compounding_by_step.csv", head, by_step)


def report(found: dict[Setting, dict[str, np.ndarray]]) -> None:
    """Prints means with intervals, what the cut changes, and differences from rollouts of one step."""
    columns = HEAD[4:]
    name = lambda s: (s.task, str(s.horizon), s.cut)  # noqa: E731
    rows = [(*name(s), *(interval(own[c]) for c in columns)) for s, own in found.items()]
    show("Mean over seeds and 95 % interval; errors in spreads", ("task", "horizon", "rollouts", *columns), rows)
    rows = [
        (*name(s), *(difference(own[c], found[s._replace(cut="whole")][c]) for c in columns))
        for s, own in found.items()
        if s.cut != "whole" and s._replace(cut="whole") in found
    ]
    if rows:
        show("Less whole ones, seed by seed", ("task", "horizon", "rollouts", *columns), rows)
    rows = [
        (*name(s), difference(own["return"], found[Setting(s.task, 1, "whole")]["return"]))
        for s, own in found.items()
        if s.horizon > 1 and Setting(s.task, 1, "whole") in found
    ]
    if rows:
        show("Return less that of rollouts of one step", ("task", "horizon", "rollouts", "return"), rows)


def draw(path: Path, found: dict[Setting, dict[str, np.ndarray]]) -> None:
    """Draws returns by horizon, and errors by steps ahead of the longest, kept and all (dotted), for each task."""
    tasks = list(dict.fromkeys(s.task for s in found))
    figure, panels = canvas(2, 9.0, 0.6 + 3.1 * len(tasks), lines=len(tasks))
    for t, task in enumerate(tasks):
        left, right = panels[2 * t : 2 * t + 2]
        lengths = sorted({s.horizon for s in found if s.task == task})
        for colour, (cut, label) in enumerate(LABELS.items()):
            own = {s.horizon: v for s, v in found.items() if s.task == task and (s.cut == cut or s.horizon == 1)}
            sizes = sorted(own)
            means = np.array([own[h]["return"].mean() for h in sizes])
            error = np.array([1.96 * own[h]["return"].std(ddof=1) / len(own[h]["return"]) ** 0.5 for h in sizes])
            beside = np.array(sizes) * 1.06 ** (colour - 1)
            left.errorbar(beside, means, error, color=COLOURS[colour], marker="o", markersize=4, capsize=2, label=label)
        left.set(xscale="log", xlabel="length of imagined rollouts", ylabel="return", title=task)
        left.set_xticks(lengths, [str(h) for h in lengths])
        left.minorticks_off()
        longest = lengths[-1]
        for colour, (cut, label) in enumerate(LABELS.items()):
            own = found.get(Setting(task, longest, cut))
            if own is None:
                continue
            x = np.arange(1, len(own["share"]) + 1)
            whole = cut == "whole"
            right.plot(
                x, own["error_all"], "-" if whole else ":", color=COLOURS[colour], label=label if whole else None
            )
            if not whole:
                enough = own["share"] * ROLLOUTS * len(own["return"]) >= 50
                right.plot(x[enough], own["error_kept"][enough], color=COLOURS[colour], label=f"{label}: kept")
        right.set(yscale="log", xlabel="steps ahead", ylabel="error, spreads", title=f"rollouts of {longest} steps")
        right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(path, figure)
