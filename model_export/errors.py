"""What the loading of weights and labels raises."""

from __future__ import annotations


class WeightsError(Exception):
    """Weights or labels that cannot be used: the message names the file, the fault and the remedy."""


class WeightsUnavailable(WeightsError):
    """Published weights that are neither in the cache nor to be had from their address now."""
