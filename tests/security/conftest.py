"""Identities are costly to make and never change: one of each for all tests of this room."""

from __future__ import annotations

import pytest

from qaios.security.keys import Identity, Role


@pytest.fixture(scope="session")
def node() -> Identity:
    return Identity.generate(Role.NODE)


@pytest.fixture(scope="session")
def other_node() -> Identity:
    return Identity.generate(Role.NODE)


@pytest.fixture(scope="session")
def hub() -> Identity:
    return Identity.generate(Role.HUB)


@pytest.fixture(scope="session")
def other_hub() -> Identity:
    return Identity.generate(Role.HUB)
