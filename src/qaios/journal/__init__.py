"""Where events and artifacts become durable: SQLite in WAL mode with synchronous=FULL, and
a content-addressed store of files."""
