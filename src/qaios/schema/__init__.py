"""What crosses a door, as pydantic models: missions in, views out."""
