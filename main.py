"""Runs the pipeline: `python main.py`. `python main.py --help` tells the rest."""

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
os.environ.setdefault("METAL_DEFECTS_ROOT", str(PROJECT))
sys.path.insert(0, str(PROJECT / "src"))

from metal_defects.cli.main import main

if __name__ == "__main__":
    main()
