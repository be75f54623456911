"""Quantum machines as numbers: calibrations, noise, estimates, variational algorithms."""
