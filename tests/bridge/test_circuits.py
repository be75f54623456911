"""Circuits come in as text or as Qiskit objects; what is wrong is said with line, column and construct."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest

from qaios.bridge.circuits import (
    Language,
    Register,
    as_argument,
    bit_string,
    detect,
    from_qpy,
    parse,
    registers_of,
    to_qpy,
)
from qaios.core.errors import Invalid

TWO = 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[2];\ncreg c[2];\n'
THREE = 'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[2] q;\nbit[2] c;\n'


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("OPENQASM 2.0;\nqreg q[1];", Language.OPENQASM_2),
        ("// a comment\n/* and\nanother */ OPENQASM 3;\nqubit q;", Language.OPENQASM_3),
        ("OPENQASM 3.1;\nqubit q;", Language.OPENQASM_3),
        ("qubit q;\nh q;", Language.OPENQASM_3),
    ],
)
def test_the_language_is_known_by_its_version_line(text: str, language: Language) -> None:
    assert detect(text) is language


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("", "1:1", "empty"),
        ("// only a comment\n", "1:1", "empty"),
        ("OPENQASM 4.0;\nqubit q;", "1:1", "OpenQASM 4"),
        ("\n  qreg q[1];", "2:3", "without its version"),
        (TWO + "h q[0];\nfoo q[1];\n", "6:1", "'foo' is not defined"),
        (TWO + "h q[0]\nx q[1];\n", "6:1", "';'"),
        (TWO + "measure q[0] -> d[0];\n", "5:17", "'d' is not defined"),
        (TWO + "h q[5];\n", "5:5", "out-of-range"),
        (TWO + 'include "/etc/passwd";\n', "5:9", "unable to find"),
        (TWO + "cx q[0], q[0];\n", "5:1", "duplicate"),
        (THREE + "h q[0];\nfoo q[1];\n", "6:1", "'foo' is not defined"),
        (THREE + "h q[0]\nx q[1];\n", "6:1", "missing ';'"),
        (THREE + "h q[0];\nc[0] = measure q[7];\n", "6:1", "measure q[7]"),
        (THREE + "h q[0];\nd[0] = measure q[1];\n", "6:1", "'d'"),
        (THREE + "array[int[8], 3] a;\n", "5:1", "array"),
        (THREE + "def f(qubit a) { x a; }\nf(q[0]);\n", "5:1", "SubroutineDefinition"),
        (THREE + 'include "/etc/passwd";\n', "5:1", "imports"),
        (THREE + "h q[0];\n$%&;\n", "6:1", "%"),
        (THREE + "int[8] n = 3;\nn += 1;\n", "5:1", ""),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, place: str, what: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text, "survey.qasm")
    message = str(caught.value)
    assert message.startswith(f"survey.qasm:{place}: "), message
    assert what in message
    assert len(message) < 400


def test_an_undeclared_register_deep_in_a_long_file_is_named_with_its_line() -> None:
    text = 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg reg[2];\ncreg c[2];\n' + "h reg[0];\n" * 2000
    with pytest.raises(Invalid, match=r"circuit:2005:9: 'q' is not defined in this scope, in 'measure q\[0\]"):
        parse(text + "measure q[0] -> c[0];\n")


def test_a_text_too_long_is_not_even_read() -> None:
    with pytest.raises(Invalid, match="characters long"):
        detect("x" * 5_000_000)


def test_both_languages_say_the_same_circuit() -> None:
    from qiskit.quantum_info import Operator

    two = parse(TWO + "h q[0];\ncx q[0],q[1];\nu3(0.1,0.2,0.3) q[0];\n")
    three = parse(THREE + "h q[0];\ncx q[0], q[1];\nu3(0.1,0.2,0.3) q[0];\n")
    assert Operator(two).equiv(Operator(three))


def test_gates_of_old_files_are_known() -> None:
    circuit = parse(TWO + "sxdg q[0];\ncsx q[0],q[1];\nrzz(0.3) q[0],q[1];\ncu1(0.2) q[0],q[1];\n")
    assert sum(circuit.count_ops().values()) == 4


def test_a_qiskit_circuit_travels_as_openqasm_3() -> None:
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import Operator

    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.dcx(0, 1)
    circuit.rzz(0.7, 1, 2)
    circuit.tdg(2)
    text = as_argument(circuit)
    assert detect(text) is Language.OPENQASM_3
    assert Operator(parse(text)).equiv(Operator(circuit))
    assert as_argument(text) == text


def test_what_is_no_circuit_is_no_argument() -> None:
    with pytest.raises(Invalid, match="not dict"):
        as_argument({"gates": []})


def test_qpy_goes_round_and_old_or_foreign_payloads_are_not_read() -> None:
    circuit = parse(TWO + "h q[0];\nmeasure q -> c;\n")
    payload = to_qpy(circuit)
    assert payload[6] >= 13
    assert from_qpy(payload) == circuit
    with pytest.raises(Invalid, match="can carry code"):
        from_qpy(payload[:6] + struct.pack("B", 12) + payload[7:])
    with pytest.raises(Invalid, match="not a QPY"):
        from_qpy(b"\x80\x04pickle")


def test_bits_are_read_by_register_highest_left() -> None:
    circuit = parse('OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[3];\ncreg low[2];\ncreg high[1];\n')
    registers = registers_of(circuit)
    assert registers == (Register("low", (0, 1)), Register("high", (2,)))
    assert bit_string(0b101, registers) == "01 1"


def test_single_bits_without_a_register_are_kept() -> None:
    circuit = parse("OPENQASM 3.0;\nqubit q;\nbit a;\nbit b;\na = measure q;\n")
    assert [len(register.bits) for register in registers_of(circuit)] == [2]


def test_detecting_and_naming_bits_need_no_qiskit() -> None:
    code = (
        "import sys; from qaios.bridge import circuits; circuits.detect('qubit q;');"
        "print('qiskit' in sys.modules, 'openqasm3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]
