"""The command line: parse, call the client or the system, print.

Imports click and the standard library only; each verb imports what it needs.
"""
