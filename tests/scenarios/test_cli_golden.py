"""What the command line prints, word for word, against a node that answers from a script.

Each file in `golden/` is a session: lines that begin with `$ qai` were typed, the rest was printed (stderr marked with
`! `). After a deliberate change, `python -m tests.scenarios.test_cli_golden` writes the answers anew; read the
difference before committing it.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.stage import node_in, qai, steady

GOLDEN = Path(__file__).parent / "golden"
SESSIONS = sorted(path.name for path in GOLDEN.glob("*.txt"))
MISSIONS = Path(__file__).parent / "missions"


def play(session: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The session with the answers of today."""
    typed = [line for line in session.splitlines() if line.startswith("$ qai")]
    outcome = "failed" if "# every task fails" in session else "done"
    printed = [line for line in session.splitlines() if line.startswith("#")]
    monkeypatch.chdir(MISSIONS)
    with node_in(home, monkeypatch, outcome=outcome):
        for line in typed:
            result = qai(*shlex.split(line.removeprefix("$ qai")))
            printed += [line, *result.out.splitlines(), *(f"! {said}" for said in result.err.splitlines())]
            if result.code:
                printed.append(f"(exit {result.code})")
    return steady("\n".join(printed) + "\n", home)


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_reads_as_it_did(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = (GOLDEN / name).read_text(encoding="utf-8")
    assert play(session, tmp_path, monkeypatch) == session


if __name__ == "__main__":
    for name in sys.argv[1:] or SESSIONS:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            path = GOLDEN / name
            path.write_text(play(path.read_text(encoding="utf-8"), Path(folder), patch), encoding="utf-8")
