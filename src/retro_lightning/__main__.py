"""Behaviour half: what ``python -m retro_lightning`` and the console script run."""

import sys

from retro_lightning.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
