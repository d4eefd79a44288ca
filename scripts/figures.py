"""Draws the figures: `python scripts/figures.py NAME [--seeds N] [--out DIR]`; `--help` lists them."""

from figures.suite import main

if __name__ == "__main__":
    main()
