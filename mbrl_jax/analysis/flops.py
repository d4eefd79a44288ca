"""Operations of the steps that cost the time, counted by hand: every matrix product, and nothing else.

A product [m, k] x [k, n] takes 2 m k n operations, a multiplication and an addition for each entry of its sum. What is
left out (activations, Adam, random numbers, reading rows) is the reason why a step cannot reach the machine's rate of
products, and so belongs to the fraction, not to the count.

A dense layer of [B, k] inputs and n outputs is one product forward; its backward pass is one for the gradient of the
weights, [k, B] x [B, n], and one for the gradient of the inputs, [B, n] x [n, k], where they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def product(m: int, k: int, n: int) -> int:
    """Operations of one matrix product [m, k] x [k, n]."""
    return 2 * m * k * n


def forward(widths: Sequence[int], rows: int) -> int:
    """Operations of a multi-layer perceptron's forward pass.

    Args:
      widths: entries of its input, of every hidden layer, and of its output.
      rows: inputs.
    """
    return sum(product(rows, k, n) for k, n in pairwise(widths))


def backward(widths: Sequence[int], rows: int, weights: bool = True, inputs: bool = False) -> int:
    """Operations of its backward pass.

    Args:
      widths: entries of its input, of every hidden layer, and of its output.
      rows: inputs.
      weights: whether the weights' gradients are computed.
      inputs: whether the gradient of the very first inputs is.
    """
    layers = [product(rows, k, n) for k, n in pairwise(widths)]
    return weights * sum(layers) + sum(layers[1:]) + inputs * layers[0]


def sac_update(obs: int, actions: int, hidden: Sequence[int], batch: int) -> int:
    """Operations of one update of soft actor-critic with continuous actions.

        targets    policy forward, twin targets forward
        critics    twins forward, and backward to their weights
        policy     policy forward, twins forward and backward to the action alone, policy backward to its weights

    Args:
      obs: entries of an observation.
      actions: entries of an action.
      hidden: widths of the hidden layers of policy and critics.
      batch: transitions.
    """
    policy, critic = (obs, *hidden, 2 * actions), (obs + actions, *hidden, 1)
    to_action = backward((actions, *hidden, 1), batch, weights=False, inputs=True)
    of_policy = 2 * forward(policy, batch) + backward(policy, batch)
    of_critics = 2 * (3 * forward(critic, batch) + backward(critic, batch) + to_action)
    return of_policy + of_critics


def ensemble_step(widths: Sequence[int], batch: int, members: int) -> int:
    """Operations of one gradient step of an ensemble, every member on a batch of its own.

    Args:
      widths: entries of a member's input, of its hidden layers, and of its output.
      batch: rows of each member.
      members: models.
    """
    return members * (forward(widths, batch) + backward(widths, batch))


def rollout_step(policy: Sequence[int], model: Sequence[int], lanes: int) -> int:
    """Operations of one imagined step of every lane, each under one member.

    Args:
      policy: widths of the policy.
      model: widths of one member.
      lanes: rollouts side by side.
    """
    return forward(policy, lanes) + forward(model, lanes)
