"""Public helpers for tests, of saelab and of what is built on it."""
