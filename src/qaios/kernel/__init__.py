"""The microkernel: apply, journal, perform. It knows contracts and the ground, never a driver."""
