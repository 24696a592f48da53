"""The command line `remit`. `main` is its entry point; the commands are in the modules beside it."""

from service.cli.root import main

__all__ = ["main"]
