"""MuZero's model: its networks, and the targets and the loss of an unroll."""
