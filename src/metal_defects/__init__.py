"""Staged training of calibrated surface-defect classifiers."""

__version__ = "0.2.0.dev0"
