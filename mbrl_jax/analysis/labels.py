"""Labels of runs in pictures."""

from __future__ import annotations

from collections.abc import Sequence


def check_labels(labels: Sequence[str]) -> None:
    """Checks that labels can be drawn: text between two "$" is a formula.

    Args:
      labels: of runs, as the user wrote them.
    Raises:
      ValueError: one holds a formula that is none.
    """
    from matplotlib.mathtext import MathTextParser

    for label in labels:
        if (label.count("$") - label.count(r"\$")) % 2 or "$" not in label:
            continue  # not taken for a formula
        try:
            MathTextParser("agg").parse(label)
        except ValueError as error:
            told = [line for line in str(error).splitlines() if line.strip(" ^")]
            raise ValueError(
                f"--labels: {label!r} holds a formula that cannot be drawn ({told[-1]}); write \\$ for the sign"
            ) from error
