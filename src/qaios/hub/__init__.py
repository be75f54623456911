"""The hub: the process that nodes report and upload to. It shares no memory and no code path with a kernel."""
