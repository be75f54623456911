"""The table of verbs, and the help made from it.

Everything else about a verb is in its own module. `qai --help` prints this table and no more, so it imports nothing:
the parser alone would cost five times as much. A test holds this text and the parser's together.
"""

from __future__ import annotations

ABOUT = "QAI OS: one kernel for quantum, classical, AI and robot work."
EPILOG = "Begin with: qai mission new > my.yaml, then: qai mission run my.yaml"

VERBS = {
    "boot": ("qaios.cli.boot:boot", "Start a node."),
    "status": ("qaios.cli.look:status", "Show the node at a glance."),
    "ps": ("qaios.cli.look:ps", "List the tasks of running missions."),
    "devices": ("qaios.cli.look:devices", "List the devices of the node."),
    "mission": ("qaios.cli.mission:mission", "Check, plan, run and look at missions."),
    "why": ("qaios.cli.look:why", "Say why tasks are where they are, or why they wait."),
    "events": ("qaios.cli.look:events", "Show what happened, from the journal."),
    "logs": ("qaios.cli.logs:logs", "Show the node's log."),
    "result": ("qaios.cli.look:result", "Write an artifact's content to stdout or a file."),
    "halt": ("qaios.cli.halt:halt", "Stop devices at once, whatever else goes on."),
    "release": ("qaios.cli.halt:release", "Let a halted device work again."),
    "shutdown": ("qaios.cli.boot:shutdown", "End the running node in good order."),
    "doctor": ("qaios.cli.doctor:doctor", "Check this installation and its state."),
    "version": ("qaios.cli.about:version", "Print the version."),
    "completion": ("qaios.cli.about:completion", "Print the completion script for a shell."),
}

MISSION_VERBS = {
    "validate": ("qaios.cli.mission:validate", "Check mission files; name every fault and its place."),
    "plan": ("qaios.cli.mission:plan", "Show where each task would go now, and why."),
    "run": ("qaios.cli.mission:run", "Run a mission and print its report."),
    "watch": ("qaios.cli.mission:watch", "Follow a mission until it ends, then print its report."),
    "ls": ("qaios.cli.mission:ls", "List missions."),
    "get": ("qaios.cli.mission:get", "Print a mission's report."),
    "cancel": ("qaios.cli.mission:cancel", "Stop a mission, or one task of it."),
    "resolve": ("qaios.cli.mission:resolve", "Say what became of a task whose outcome is unknown."),
    "schema": ("qaios.cli.mission:schema", "Print the JSON Schema of mission files."),
    "new": ("qaios.cli.mission:new", "Print a mission file to start from."),
}


def help_text() -> str:
    """What `qai --help` prints."""
    return "\n".join(
        [
            "Usage: qai [OPTIONS] COMMAND [ARGS]...",
            "",
            f"  {ABOUT}",
            "",
            "Options:",
            *_lines({"--version": "Show the version and exit.", "-h, --help": "Show this message and exit."}),
            "",
            "Verbs:",
            *_lines({name: line for name, (_, line) in VERBS.items()}),
            "",
            f"  {EPILOG}",
            "",
        ]
    )


def _lines(entries: dict[str, str]) -> list[str]:
    width = max(map(len, entries))
    return [f"  {name.ljust(width)}  {line}" for name, line in entries.items()]
