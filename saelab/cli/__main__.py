"""`python -m saelab.cli`."""

from saelab.cli.app import main

main()
