"""The parser of the commands whose flags are few; those of `train` come from the settings (`cli.flags`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises ValueError where the words cannot be understood."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help tells more")

    def parsed(self, words: Sequence[str]) -> argparse.Namespace | int:
        """The words by name, or the exit code after help was printed."""
        try:
            return self.parse_args(words)
        except SystemExit as stop:
            return int(stop.code or 0)
