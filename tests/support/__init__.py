"""What the tests share: where the project lies, toys, hostile files, and programs as a user starts them."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
