"""The kit is live: every planted mutant of the reference device is failed, by the test that is meant to."""

from __future__ import annotations

import pytest

from qaios.testing.device_kit import DeviceKit
from tests.contracts.mutants import ALL, Mutant
from tests.contracts.test_reference_device import ScriptedDeviceKit

PROMISES = [name for name in dir(ScriptedDeviceKit) if name.startswith("test_")]
TABLE: list[tuple[str, str, int]] = []


def failures(mutant: type[Mutant]) -> dict[str, str]:
    """The promises this device breaks, and how."""

    class Kit(ScriptedDeviceKit):
        made = mutant
        patience_s = 0.5
        standstill_s_max = 0.2

    broken: dict[str, str] = {}
    for name in PROMISES:
        try:
            getattr(Kit(), name)()
        except Exception as error:  # noqa: BLE001 - whatever way a test fails
            broken[name] = f"{type(error).__name__}: {error}"
    return broken


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.__name__)
def test_the_kit_fails_a_device_that(mutant: type[Mutant]) -> None:
    broken = failures(mutant)
    TABLE.append((mutant.__name__, mutant.caught_by, len(broken)))
    assert mutant.caught_by in broken, f"it was failed by {sorted(broken) or 'no test at all'}"


def test_every_promise_that_the_reference_can_break_has_a_mutant() -> None:
    aimed_at = {mutant.caught_by for mutant in ALL}
    assert aimed_at <= set(PROMISES)
    assert set(PROMISES) - aimed_at == {
        "test_every_probe_is_given_or_its_lack_is_explained",  # about the author's test, not the device
        "test_it_can_be_read",  # the type checker knows what a reading is
        "test_the_halt_recipes_are_plain_data_and_stop_it_without_the_driver",  # the reference has no process
        "test_the_spec_makes_sense",
        "test_who_takes_batches_says_so_and_who_says_so_takes_them",
    }


def test_an_author_who_neither_gives_a_probe_nor_excuses_it_is_told() -> None:
    class Silent(ScriptedDeviceKit):
        effects = DeviceKit.effects

    with pytest.raises(AssertionError, match="give effects, or say in `lacks` why there is none"):
        Silent().test_every_probe_is_given_or_its_lack_is_explained()
    assert Silent.test_the_same_key_twice_is_one_effect is None


def test_the_table_of_mutants(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    out = request.config.get_terminal_writer()
    with capsys.disabled():
        out.line()
        for name, caught_by, count in sorted(TABLE):
            out.line(f"  {name:<36}{caught_by} and {count - 1} more")
