"""Supervised engines: each runs until cancelled and is started again when it crashes."""
