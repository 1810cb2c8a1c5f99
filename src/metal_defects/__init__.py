"""Staged training of calibrated surface-defect classifiers."""

__version__ = "0.1.0"
