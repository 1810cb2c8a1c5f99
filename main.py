"""Runs the pipeline: `python main.py`. `python main.py --help` tells the rest."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from metal_defects.cli import main

if __name__ == "__main__":
    main()
