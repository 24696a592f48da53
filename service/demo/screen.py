"""What the demo prints, and the claims that it makes: one that does not hold ends it with a sentence."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import Final

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDTH: Final = 100


class BrokenClaimError(Exception):
    """Something that the demo shows is not so; the message is one sentence for people."""


class Screen:
    """Prints at most 100 columns; without colours and motion when the output is not a terminal."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.console: Final = Console(
            force_terminal=terminal,
            color_system="auto" if terminal else None,
            highlight=False,
            soft_wrap=False,
            emoji=False,
            markup=False,
        )
        self.console.width = min(self.console.width, WIDTH) if terminal else WIDTH
        self.claims = 0

    @property
    def moves(self) -> bool:
        """Whether a progress bar can be drawn."""
        return self.console.is_terminal

    def act(self, number: int, title: str) -> None:
        """Begin a part."""
        self.console.print()
        self.console.print(Rule(Text(f" {number}  {title} ", "bold"), align="left", style="cyan"))
        self.console.print()

    def say(self, text: str = "", style: str = "") -> None:
        """Print a paragraph."""
        self.console.print(Text("\n".join(textwrap.wrap(text, self.console.width, break_on_hyphens=False)), style))

    def show(self, text: str) -> None:
        """Print what was found, indented, as it is."""
        for line in text.splitlines():
            self.console.print(Text(f"    {line}", "dim"), overflow="fold")

    def paste(self, text: str) -> None:
        """Print what people copy: as it is, however wide."""
        self.console.file.write(text.rstrip("\n") + "\n")

    def table(self, table: Table) -> None:
        """Print a table as wide as the screen, without the blanks that fill its last column."""
        table.width = self.console.width
        with self.console.capture() as captured:
            self.console.print(table)
        for line in captured.get().splitlines():
            self.console.file.write(line.rstrip() + "\n")

    def claim(self, text: str, holds: bool, otherwise: str) -> None:
        """Print a claim that holds. Raises BrokenClaimError with `otherwise` when it does not."""
        if not holds:
            raise BrokenClaimError(otherwise)
        self.claims += 1
        first, *more = textwrap.wrap(text, self.console.width - 4, break_on_hyphens=False)
        self.console.print(Text.assemble(("  ✓ ", "bold green"), first))
        for line in more:
            self.console.print(Text(f"    {line}"))
