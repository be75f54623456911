"""Formats: mission files in, circuits and results between the languages of the field. Pure conversion, no devices."""
