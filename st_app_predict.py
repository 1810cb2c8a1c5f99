"""The app: `streamlit run st_app_predict.py`."""

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
os.environ.setdefault("METAL_DEFECTS_ROOT", str(PROJECT))
if str(PROJECT / "src") not in sys.path:  # this script runs at every click
    sys.path.insert(0, str(PROJECT / "src"))

from metal_defects.app.main import show_app  # noqa: E402

show_app()
