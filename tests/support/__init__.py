"""What the tests share: where the project lies, toys, hostile files, and programs as a user starts them."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
# The size of the terminal, which the workers of pytest-xdist inherit, would overrule what a test asks for.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)
