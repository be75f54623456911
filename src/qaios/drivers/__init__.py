"""The drivers shipped with the system. Each is a record named by an entry point in `qaios.drivers`,
and passes the conformance kit."""
