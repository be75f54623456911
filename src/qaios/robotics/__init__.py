"""Vehicles and their plans: geometry, coverage, routes, the vehicle's own mission state and safety."""
