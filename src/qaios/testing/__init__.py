"""Conformance kits, fakes and clocks for tests, shipped so that a driver's author gets them for free."""
