"""saelab beside the tools whose formats it speaks, in an environment that has them: `make interop`."""
