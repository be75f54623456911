"""Circuits between the languages of the field and the one form our simulators run.

In comes what a person has: OpenQASM 2 text, OpenQASM 3 text, or a Qiskit `QuantumCircuit`. Out comes a
`QuantumCircuit` in memory, OpenQASM 3 text at a public border, or QPY between our own processes. Parsing runs
inside a worker process, because it imports qiskit and because OpenQASM 3 takes half a second for a large file;
`as_argument` is what a client calls to put its circuit into a task.

Every fault is reported as `name:line:column: what — what to do`, lines and columns from 1. Nothing is read
from disk on behalf of a circuit: an `include` other than the two standard ones is a fault. QPY is taken only
from version 13 on (older payloads can run code when read, CVE-2025-2000) and never from users.
"""

from __future__ import annotations

import enum
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from qaios.core.errors import Fault, Invalid

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

TEXT_MAX_CHARACTERS = 4_000_000
QPY_VERSION_MIN = 13
QPY_VERSION = 15  # what we write; every qiskit this project accepts reads it

_VERSION = re.compile(r"\s*OPENQASM\s+(\d+)(?:\.(\d+))?\s*;")
_COMMENTS = re.compile(r"(?:\s|//[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
# The importer lets plain Python errors out, e.g. IndexError for a qubit beyond its register; each becomes a fault
# with its line, and none is passed over.
_IMPORTER_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, NotImplementedError)
_PLACE = re.compile(r"(?:L?(\d+)[,:]C?(\d+)):\s*(.*)", re.DOTALL)
_QUOTED = re.compile(r"'([^']+)'")


class Language(enum.StrEnum):
    OPENQASM_2 = "openqasm2"
    OPENQASM_3 = "openqasm3"


def detect(text: str, name: str = "circuit") -> Language:
    """Which language a text is in, by its version line; a text without one is OpenQASM 3, where it is optional.

    Raises `Invalid` for an empty text, for an unknown version, and for OpenQASM 2 that lacks its version line.
    """
    if len(text) > TEXT_MAX_CHARACTERS:
        _refuse(name, 1, 1, f"the circuit is {len(text)} characters long", f"at most {TEXT_MAX_CHARACTERS} are taken")
    start = _COMMENTS.match(text)
    offset = start.end() if start else 0
    line, column = text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1
    if offset == len(text):
        _refuse(name, 1, 1, "the circuit is empty", "give OpenQASM 2 or 3 text")
    version = _VERSION.match(text, offset)
    if version is None:
        if re.search(r'\bqreg\b|"qelib1\.inc"', text):
            _refuse(name, line, column, "OpenQASM 2 without its version", "begin the text with 'OPENQASM 2.0;'")
        return Language.OPENQASM_3
    if version[1] == "2":
        return Language.OPENQASM_2
    if version[1] == "3":
        return Language.OPENQASM_3
    return _refuse(name, line, column, f"OpenQASM {version[1]} is not known", "write OpenQASM 2.0 or 3.0")


def parse(text: str, name: str = "circuit") -> QuantumCircuit:
    """A circuit from OpenQASM 2 or 3 text. Imports qiskit: call it in a worker.

    Raises `Invalid` with place and construct for everything it cannot take.
    """
    circuit = _parse2(text, name) if detect(text, name) is Language.OPENQASM_2 else _parse3(text, name)
    circuit.name = name
    return circuit


def as_argument(circuit: Any) -> str:
    """The text of a circuit for a task's `circuit` argument; a `QuantumCircuit` becomes OpenQASM 3.

    Raises `Invalid` for anything else, and for a circuit that OpenQASM 3 cannot say.
    """
    if isinstance(circuit, str):
        detect(circuit)
        return circuit
    if type(circuit).__name__ != "QuantumCircuit" and not hasattr(circuit, "qregs"):
        raise Invalid(
            f"a circuit must be OpenQASM text or a qiskit QuantumCircuit, not {type(circuit).__name__}",
            hint="write it as OpenQASM 3 text",
        )
    from qiskit import qasm3

    try:
        text: str = qasm3.dumps(circuit)
    except qasm3.QASM3Error as error:
        raise Invalid(f"the circuit cannot be written as OpenQASM 3: {_message(error)}") from error
    return text


def to_qpy(circuit: QuantumCircuit) -> bytes:
    """A circuit for another process of this node; 250 times faster to read back than OpenQASM 3."""
    from qiskit import qpy

    buffer = io.BytesIO()
    qpy.dump(circuit, buffer, version=QPY_VERSION)
    return buffer.getvalue()


def from_qpy(payload: bytes) -> QuantumCircuit:
    """A circuit from another process of this node. Raises `Invalid` for what is not QPY of version 13 or newer."""
    if payload[:6] != b"QISKIT" or len(payload) < 7:
        raise Invalid("this is not a QPY payload")
    if payload[6] < QPY_VERSION_MIN:
        raise Invalid(
            f"QPY version {payload[6]} is not read: payloads before {QPY_VERSION_MIN} can carry code",
            hint="write the circuit again with qiskit 2 or newer, or send OpenQASM 3 text",
        )
    from qiskit import qpy

    circuit: QuantumCircuit = qpy.load(io.BytesIO(payload))[0]
    return circuit


@dataclass(frozen=True, slots=True)
class Register:
    """A classical register: its name and the numbers of its bits in the circuit, lowest first."""

    name: str
    bits: tuple[int, ...]


def registers_of(circuit: QuantumCircuit) -> tuple[Register, ...]:
    """The classical registers in the order of their declaration; single bits without one come last, as `bits`."""
    found = [
        Register(register.name, tuple(circuit.find_bit(bit).index for bit in register)) for register in circuit.cregs
    ]
    covered = {bit for register in found for bit in register.bits}
    loose = tuple(bit for bit in range(circuit.num_clbits) if bit not in covered)
    return (*found, Register("bits", loose)) if loose else tuple(found)


def bit_string(outcome: int, registers: Sequence[Register]) -> str:
    """An outcome as people read it: registers in the order of declaration, a space between, highest bit left.

    Bit `i` of `outcome` is classical bit `i` of the circuit. (Qiskit's own strings have the registers reversed.)
    """
    return " ".join("".join(str(outcome >> bit & 1) for bit in reversed(each.bits)) for each in registers)


def _parse2(text: str, name: str) -> QuantumCircuit:
    from qiskit import qasm2

    try:
        # An empty include path: only the built-in qelib1.inc may be included, never a file of this machine.
        circuit: QuantumCircuit = qasm2.loads(
            text, include_path=(), custom_instructions=qasm2.LEGACY_CUSTOM_INSTRUCTIONS
        )
    except qasm2.QASM2Error as error:
        place = _PLACE.search(_message(error))
        if place is None:
            _refuse(name, 1, 1, _message(error), "correct the circuit")
        line = int(place[1])
        _refuse(name, line, int(place[2]) + 1, f"{place[3]}, in {_quote(text, line)}", "correct the circuit")
    return circuit


def _parse3(text: str, name: str) -> QuantumCircuit:
    import openqasm3
    import qiskit_qasm3_import

    _check_syntax(text, name)
    try:
        circuit: QuantumCircuit = qiskit_qasm3_import.convert(openqasm3.parse(text))
    except qiskit_qasm3_import.ConversionError as error:
        place = _PLACE.match(error.message)
        if place is None:
            _refuse(name, 1, 1, error.message, "correct the circuit")
        line = int(place[1])
        column = _column(text, line, int(place[2]), place[3])
        _refuse(name, line, column, f"{place[3].rstrip('.')}, in {_quote(text, line)}", "correct the circuit")
    except _IMPORTER_ERRORS as error:
        line, column, construct = _blame(text)
        what = f"{construct!r} cannot be understood: {type(error).__name__}: {error}"
        _refuse(name, line, column, what, "check indices and types of this statement")
    return circuit


def _check_syntax(text: str, name: str) -> None:
    """Run the reference grammar once for the place of the first fault; the package's own error carries none."""
    from antlr4 import CommonTokenStream, InputStream  # type: ignore[import-untyped, unused-ignore]
    from antlr4.error.ErrorListener import ErrorListener  # type: ignore[import-untyped, unused-ignore]
    from openqasm3 import parser as grammar  # the lexer and parser it was generated with, whatever their version

    lexing, parsing = vars(grammar)["qasm3Lexer"], vars(grammar)["qasm3Parser"]
    faults: list[tuple[int, int, str]] = []

    class Listener(ErrorListener):  # type: ignore[misc, unused-ignore]
        def syntaxError(self, recognizer: Any, symbol: Any, line: int, column: int, msg: str, e: Any) -> None:
            # The grammar lists every token it would have taken; the first words say what is wrong.
            faults.append((line, column + 1, msg.split(" expecting {")[0]))

    lexer = lexing(InputStream(text))
    lexer.removeErrorListeners()
    lexer.addErrorListener(Listener())
    parser = parsing(CommonTokenStream(lexer))
    parser.removeErrorListeners()
    parser.addErrorListener(Listener())
    parser.program()
    if faults:
        line, column, what = faults[0]
        _refuse(name, line, column, f"{what}, in {_quote(text, line)}", "correct the syntax")


def _blame(text: str) -> tuple[int, int, str]:
    """The first statement that fails when the program is imported one statement longer at a time.

    Only runs after a failure, so its square cost is paid once by a program that is refused anyway.
    """
    import openqasm3
    import qiskit_qasm3_import

    program = openqasm3.parse(text)
    statements = list(program.statements)
    low, high = 0, len(statements)
    while low + 1 < high:  # the shortest prefix that fails ends with the statement to blame
        middle = (low + high) // 2
        program.statements = statements[:middle]
        try:
            qiskit_qasm3_import.convert(program)
        except (qiskit_qasm3_import.ConversionError, *_IMPORTER_ERRORS):
            high = middle
        else:
            low = middle
    span = statements[high - 1].span
    assert span is not None  # the parser gives every statement its place
    line = text.splitlines()[span.start_line - 1]
    return span.start_line, span.start_column + 1, line[span.start_column :].strip()


def _column(text: str, line: int, column: int, what: str) -> int:
    """The importer counts the columns of some leaves from the start of the text; then find the name it speaks of."""
    lines = text.splitlines()
    content = lines[line - 1] if line <= len(lines) else ""
    if column < len(content):
        return column + 1
    named = _QUOTED.search(what)
    found = re.search(rf"\b{re.escape(named[1])}\b", content) if named else None
    return found.start() + 1 if found else 1


def _quote(text: str, line: int) -> str:
    lines = text.splitlines()
    return repr(lines[line - 1].strip()[:80]) if line <= len(lines) else "the end of the text"


def _message(error: Exception) -> str:
    return str(getattr(error, "message", error)).strip("\"'")


def _refuse(name: str, line: int, column: int, what: str, remedy: str) -> NoReturn:
    raise Invalid(str(Fault(name, line, column, what.strip().rstrip("."), remedy)), hint=remedy)
