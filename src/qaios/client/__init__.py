"""The typed client of a running node. The command line uses it, and so may any program."""
