"""The composition root and the facade: the only room that knows concretes."""
