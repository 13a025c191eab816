"""Evaluation of networks on data sets: predictions, metrics, calibration, reported errors."""
