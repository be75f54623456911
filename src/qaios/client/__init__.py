"""The typed client of a running node, and the notebook's missions. The command line uses them, and so may any program.

`from qaios import Client, SyncClient, Mission, task` brings what is here; this file itself imports nothing, because
`qai halt` passes through it and has no time to lose.
"""
