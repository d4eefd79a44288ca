"""Tic-tac-toe solved exactly in plain Python, independent of the package: an oracle for tests.

A position is a string of nine letters, "x" and "o" and ".", and "x" begins.
"""

from __future__ import annotations

from functools import cache

ROWS = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
START = "." * 9


def mover(position: str) -> str:
    return "x" if position.count("x") == position.count("o") else "o"


def winner(position: str) -> str | None:
    lines = ({position[cell] for cell in row} for row in ROWS)
    return next((letters.pop() for letters in lines if len(letters) == 1 and "." not in letters), None)


def over(position: str) -> bool:
    return winner(position) is not None or "." not in position


def moves(position: str) -> list[int]:
    return [i for i, letter in enumerate(position) if letter == "."]


def play(position: str, cell: int) -> str:
    return position[:cell] + mover(position) + position[cell + 1 :]


@cache
def value(position: str) -> int:
    """1, 0 or -1 for the player to move, by perfect play of both; the player to move has lost where a line is full."""
    if over(position):
        return -1 if winner(position) else 0
    return max(-value(play(position, cell)) for cell in moves(position))


@cache
def positions() -> list[str]:
    """Every position that can occur, finished ones included: 5,478."""
    seen, open_ = {START}, [START]
    while open_:
        position = open_.pop()
        if not over(position):
            new = {play(position, cell) for cell in moves(position)} - seen
            seen |= new
            open_ += new
    return sorted(seen)


def worst_result(choose: dict[str, int], side: str) -> int:
    """The worst result, 1, 0 or -1 for `side`, of a player of fixed choices against all replies."""

    @cache
    def result(position: str) -> int:
        if over(position):
            return {side: 1, None: 0}.get(winner(position), -1)
        if mover(position) == side:
            return result(play(position, choose[position]))
        return min(result(play(position, cell)) for cell in moves(position))

    return result(START)
