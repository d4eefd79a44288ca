"""The same two steps in eager torch, for comparison with JAX.

Written for speed: parallel networks in one `baddbmm` (the twin critics also as two modules, whichever is faster), fused
Adam, no gradients of weights that are not updated, one `lerp` over all target parameters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
Rows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # obs, action, reward, discount, next_obs


def use_all_cores() -> int:
    """Sets torch's threads to the cores this process may use, as XLA does; returns their number."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    return cores


def tensors(
    obs: np.ndarray, action: np.ndarray, reward: np.ndarray, discount: np.ndarray, next_obs: np.ndarray
) -> Rows:
    """The columns of a buffer as torch tensors."""
    to = torch.from_numpy
    return to(obs), to(action), to(reward), to(discount), to(next_obs)


def products(left: Sequence[int], right: Sequence[int]) -> Callable[[int], None]:
    """`n` successive matrix products, [..., m, k] x [..., k, k]."""
    x, w = torch.randn(*left), torch.linalg.qr(torch.randn(*right))[0]

    @torch.no_grad()
    def run(n: int) -> None:
        out = x
        for _ in range(n):
            out = torch.bmm(out, w) if out.ndim == 3 else out @ w

    return run


class Stack(nn.Module):
    """Parallel perceptrons: inputs [E, B, k] or [B, k], outputs [E, B, n]."""

    def __init__(self, members: int, widths: Sequence[int], activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(members, k, n) / math.sqrt(k)) for k, n in pairs])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(members, 1, n)) for _, n in pairs])
        self.members, self.activation = members, activation

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            x = x.expand(self.members, *x.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i + 1 < len(self.weights):
                x = self.activation(x)
        return x


class Pair(nn.Module):
    """Two perceptrons as two modules, with the interface of `Stack`."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([perceptron(widths) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([part(x) for part in self.parts])


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Dense layers with ReLU between them."""
    layers: list[nn.Module] = []
    for k, n in pairwise(widths):
        layers += [nn.Linear(k, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def sac(rows: Rows, hidden: Sequence[int], batch: int, stacked: bool, lr: float = 3e-4) -> Callable[[int], None]:
    """`n` updates of soft actor-critic, in the order of `mbrl_jax.agents.sac`.

    Args:
      rows: the full buffer.
      hidden: widths of the hidden layers.
      batch: transitions per update.
      stacked: the twins in one `baddbmm`, or as two modules.
    """
    obs_size, num_actions = rows[0].shape[1], rows[1].shape[1]
    gamma, tau, target_entropy = 0.99, 5e-3, -float(num_actions)
    policy = perceptron((obs_size, *hidden, 2 * num_actions))
    widths = (obs_size + num_actions, *hidden, 1)
    critic, target = (Stack(2, widths, functional.relu) if stacked else Pair(widths) for _ in range(2))
    target.load_state_dict(critic.state_dict())
    target.requires_grad_(False)
    log_alpha = torch.zeros((), requires_grad=True)
    adam_policy = torch.optim.Adam(policy.parameters(), lr, fused=True)
    adam_critic = torch.optim.Adam(critic.parameters(), lr, fused=True)
    adam_alpha = torch.optim.Adam([log_alpha], lr, fused=True)
    moving: list[Tensor] = [p.data for p in critic.parameters()]
    target_params: list[Tensor] = [p.data for p in target.parameters()]

    def draw(obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = policy(obs).chunk(2, -1)
        log_std = raw.clamp(LOG_STD_MIN, LOG_STD_MAX)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        squash = 2 * (math.log(2) - u - functional.softplus(-2 * u))
        return u.tanh(), (normal - squash).sum(-1)

    def q(net: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
        return net(torch.cat([obs, action], -1))[..., 0]

    def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def update() -> None:
        index = torch.randint(rows[0].shape[0], (batch,))
        obs, action, reward, discount, next_obs = (column[index] for column in rows)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_action, log_prob = draw(next_obs)
            next_value = q(target, next_obs, next_action).amin(0) - alpha * log_prob
            y = reward + gamma * discount * next_value
        step(adam_critic, 0.5 * (q(critic, obs, action) - y).square().sum(0).mean())

        critic.requires_grad_(False)
        now, log_prob = draw(obs)
        step(adam_policy, (alpha * log_prob - q(critic, obs, now).amin(0)).mean())
        critic.requires_grad_(True)

        step(adam_alpha, log_alpha * (-log_prob.detach().mean() - target_entropy))
        torch._foreach_lerp_(target_params, moving, tau)  # pyright: ignore[reportPrivateImportUsage]

    def run(n: int) -> None:
        for _ in range(n):
            update()

    return run


def ensemble(
    rows: Rows, hidden: Sequence[int], members: int, batch: int, lr: float = 1e-3, decay: float = 5e-5
) -> Callable[[int], None]:
    """`n` gradient steps of a probabilistic ensemble, each member on its own bootstrap."""
    obs, action, reward, _, next_obs = rows
    inputs = torch.cat([obs, action], -1)
    outputs = torch.cat([next_obs - obs, reward[:, None]], -1)
    scale_in, scale_out = torch.std_mean(inputs, 0), torch.std_mean(outputs, 0)
    count, size = outputs.shape
    net = Stack(members, (inputs.shape[1], *hidden, 2 * size), functional.silu)
    low = nn.Parameter(torch.full((members, 1, size), -10.0))
    high = nn.Parameter(torch.full((members, 1, size), 0.5))
    adam = torch.optim.Adam([*net.parameters(), low, high], lr, fused=True)
    bootstrap = torch.randint(count, (members, count))
    batches = count // batch

    def step(index: Tensor) -> None:
        x = (inputs[index] - scale_in[1]) / scale_in[0]
        y = (outputs[index] - scale_out[1]) / scale_out[0]
        mean, raw = net(x).chunk(2, -1)
        upper = high - functional.softplus(high - raw)
        log_var = low + functional.softplus(upper - low)
        nll = ((mean - y).square() * (-log_var).exp() + log_var).mean((1, 2)).sum()
        squares = torch.stack([weight.square().sum() for weight in net.weights]).sum()
        loss = nll + 0.01 * (high - low).sum() + 0.5 * decay * squares
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()

    def run(n: int) -> None:
        for start in range(0, n, batches):
            order = torch.gather(bootstrap, 1, torch.argsort(torch.rand(members, count), 1))
            for i in range(min(batches, n - start)):
                step(order[:, i * batch : (i + 1) * batch])

    return run
