"""Simulated worlds: physics, weather, pollution. A world is its own process and outlives the
kernel, as the real one does."""
