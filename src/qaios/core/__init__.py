"""The ground: values, errors, batched events and the state machine. No I/O, no clock, no chance, no asyncio."""
