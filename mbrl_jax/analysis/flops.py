"""Floating-point operations of the expensive steps, counted by hand: all matrix products, and nothing else.

A product [m, k] x [k, n] takes 2 m k n operations, a multiplication and an addition for each term of its sums. What is
left out (activations, Adam, random numbers, reading rows) is why a step does not reach the machine's rate of bare
products; it shows in the fraction of that rate, not in the count.

A dense layer of [B, k] inputs and n outputs is one product forward; its backward pass is one for the gradient of the
weights, [k, B] x [B, n], and one for the gradient of the inputs, [B, n] x [n, k], where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def product(m: int, k: int, n: int) -> int:
    """Operations of one matrix product [m, k] x [k, n], 2 m k n.

    Args:
      m: rows of the first matrix, and of the product.
      k: columns of the first matrix, rows of the second.
      n: columns of the second matrix, and of the product.
    """
    return 2 * m * k * n


def forward(widths: Sequence[int], rows: int) -> int:
    """Operations of a multi-layer perceptron's forward pass.

    Args:
      widths: sizes of the input, of every hidden layer, and of the output.
      rows: batch size.
    """
    return sum(product(rows, k, n) for k, n in pairwise(widths))


def backward(widths: Sequence[int], rows: int, weights: bool = True, inputs: bool = False) -> int:
    """Operations of a multi-layer perceptron's backward pass.

    Args:
      widths: sizes of the input, of every hidden layer, and of the output.
      rows: batch size.
      weights: whether the weights' gradients are computed.
      inputs: whether the gradient of the network's inputs is computed.
    """
    layers = [product(rows, k, n) for k, n in pairwise(widths)]
    return weights * sum(layers) + sum(layers[1:]) + inputs * layers[0]


def sac_update(obs: int, actions: int, hidden: Sequence[int], batch: int) -> int:
    """Operations of one update of soft actor-critic with continuous actions.

        targets    policy forward, twin targets forward
        critics    twins forward, and backward to their weights
        policy     policy forward, twins forward and backward to the action alone, policy backward to its weights

    Args:
      obs: size of an observation.
      actions: size of an action.
      hidden: sizes of the hidden layers of policy and critics.
      batch: batch size.
    """
    policy, critic = (obs, *hidden, 2 * actions), (obs + actions, *hidden, 1)
    to_action = backward((actions, *hidden, 1), batch, weights=False, inputs=True)
    of_policy = 2 * forward(policy, batch) + backward(policy, batch)
    of_critics = 2 * (3 * forward(critic, batch) + backward(critic, batch) + to_action)
    return of_policy + of_critics


def ensemble_step(widths: Sequence[int], batch: int, members: int) -> int:
    """Operations of one gradient step of an ensemble, each member on a batch of its own.

    Args:
      widths: sizes of a member's input, of its hidden layers, and of its output.
      batch: batch size of each member.
      members: number of members.
    """
    return members * (forward(widths, batch) + backward(widths, batch))


def rollout_step(policy: Sequence[int], model: Sequence[int], batch: int) -> int:
    """Operations of one imagined step of a batch of rollouts, each under one member.

    Args:
      policy: layer sizes of the policy.
      model: layer sizes of one member.
      batch: number of rollouts.
    """
    return forward(policy, batch) + forward(model, batch)
