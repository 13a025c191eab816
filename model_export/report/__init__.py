"""Plots and HTML reports of trainings and evaluations."""
