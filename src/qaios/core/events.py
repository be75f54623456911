"""Facts in the past tense, one Struct for a batch of tasks. See `core.machine`."""
