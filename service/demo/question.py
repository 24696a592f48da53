"""Parts 1 and 2: one question asked by two people, why each passage was allowed, and the list behind it on disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remit.client import Grant, SearchResult
from rich import box
from rich.table import Table
from rich.text import Text

from service.demo import people
from service.demo.screen import BrokenClaimError, Screen
from service.files import facl

QUESTION: Final = "What discount was approved for Helios, and what does it do to the margin?"

OPEN_TO_ALL: Final = frozenset({"Company-wide", "HR/For everyone"})
"""The folders whose files everybody may read."""

READABLE: Final = {
    "alice": OPEN_TO_ALL | {"Sales", "Sales/Helios"},
    "bob": OPEN_TO_ALL | {"Finance", "Finance/EMEA"},
}
"""What each may read, said here once more and by hand, so that the service is not its own witness."""

_SHOWN: Final = 4
_CELL: Final = 46


@dataclass(frozen=True, slots=True)
class Found:
    """A document among the hits, with its best passage."""

    document_id: str
    place: str
    title: str
    score: float
    text: str
    grants: tuple[Grant, ...]

    @property
    def folder(self) -> str:
        """Where the document lies, within the company."""
        return self.place.rpartition("/")[0]


def documents(answer: SearchResult) -> list[Found]:
    """The documents of an answer, each once, the best first."""
    found: dict[str, Found] = {}
    for hit in answer.hits:
        info = hit.chunk.document
        one = Found(info.document_id, info.location, info.title, hit.score, hit.chunk.text, hit.grants)
        found.setdefault(info.document_id, one)
    return list(found.values())


def ask(screen: Screen, answers: dict[str, SearchResult]) -> dict[str, list[Found]]:
    """Show the answers side by side and check what they must and must not hold. Raises BrokenClaimError."""
    found = {name: documents(answer) for name, answer in answers.items()}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(Text("Alice, in Sales", "bold"), width=_CELL)
    table.add_column(Text("Bob, in Finance EMEA", "bold"), width=_CELL)
    for rank in range(min(_SHOWN, max(len(one) for one in found.values()))):
        table.add_row(*(_cell(found[name], rank) for name in ("alice", "bob")))
    screen.table(table)
    alice, bob = found["alice"], found["bob"]
    screen.claim(
        f"the best passage is another one: {alice[0].place} for Alice, {bob[0].place} for Bob",
        alice[0].folder.startswith("Sales") and bob[0].folder.startswith("Finance"),
        f"the best passages should come from Sales and Finance, and come from {alice[0].place} and {bob[0].place}",
    )
    both = sorted({f.place for f in alice} & {f.place for f in bob})
    screen.claim(
        f"what is for everybody is found by both: {', '.join(both)}",
        bool(both) and all(place.rpartition("/")[0] in OPEN_TO_ALL for place in both),
        f"both should find something company-wide and nothing else in common, but have in common {both}",
    )
    outside = [f"{f.place} for {name}" for name, one in found.items() for f in one if f.folder not in READABLE[name]]
    screen.claim(
        f"none of the {len(alice)} and {len(bob)} documents in the two answers lies outside what its reader may open",
        not outside,
        f"passages were given to somebody who may not read them: {', '.join(outside)}",
    )
    unexplained = [f.place for f in [*alice, *bob] if len(f.grants) != _lists(f)]
    screen.claim(
        "each passage names a rule for every list on the way to it: the company's, each folder's, the file's",
        not unexplained,
        f"not every list was accounted for: {', '.join(unexplained)}",
    )
    return found


def _lists(found: Found) -> int:
    """How many lists stand on the way: the company's folder, every folder below it, and the file itself."""
    return 1 + found.place.count("/") + 1


def _cell(found: list[Found], rank: int) -> Text:
    if rank >= len(found):
        return Text()
    one = found[rank]
    cell = Text()
    cell.append(f"{rank + 1}  {one.score:.2f}  ", "bold")
    cell.append(_short(one.title, _CELL - 9) + "\n", "bold")
    cell.append(f"{one.place}\n", "cyan")
    for line in textwrap.wrap(f"“{passage(one.text)}”", _CELL)[:3]:
        cell.append(f"{line}\n", "italic")
    for grant in one.grants:
        cell.append(_grant(one, grant) + "\n", "dim")
    return cell


def _grant(found: Found, grant: Grant) -> str:
    """One reason, as `Finance      20102  bob › fin-emea › finance`."""
    where = {".": "company", "own": "the file"}.get(grant.clause, grant.clause.rpartition("/")[2])
    number = grant.principal.rpartition("-")[2]
    return f" {where:<12} {number}  {' › '.join(grant.path)}"


def passage(text: str) -> str:
    """The sentence of a passage that has most words of the question, for a narrow column."""
    words = {w.lower() for w in re.findall(r"\w{5,}", QUESTION)}
    # Headings and tables read badly in a narrow column, unless there is nothing else.
    prose = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", "|"))).strip()
    parts = re.split(r"(?<=[.!?:])\s+|\n\n", prose or text)
    sentences = [" ".join(re.sub(r"[*|]|-{3,}", " ", part).split()) for part in parts]
    best = max(sentences, key=lambda s: (len(words & {w.lower() for w in re.findall(r"\w+", s)}), min(len(s), 80)))
    return _short(best, 3 * _CELL - 12)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def on_disk(screen: Screen, company: Path, found: Found) -> None:
    """Show the list of one document and of its folders as the file system has it."""
    names = people.group_names()
    folder = found.place.rpartition("/")[0]
    command = shutil.which("getfacl")
    for place in (found.place, folder):
        if command is not None:
            arguments = [command, "--numeric", "--absolute-names", place]
            shown = subprocess.run(arguments, cwd=company, capture_output=True, text=True, check=True).stdout.strip()
            screen.say(f'  $ getfacl --numeric "{place}"', "bold")
        else:
            shown = facl.text(company / place, place)
            screen.say(f"  {place}: getfacl is not installed, these are the attribute's own bytes decoded", "bold")
        lines = [line for line in shown.splitlines() if not line.startswith("# file")]
        screen.show("\n".join(line + _named(line, names) for line in lines))
        screen.say()
    on_file, on_folder = (_gid(grant) for grant in reversed(found.grants[-2:]))
    screen.claim(
        f"on disk are the rules that the answer named: group {on_folder} opens the folder, group {on_file} the file",
        facl.group(on_file, "r--") in facl.read(company / found.place)
        and facl.group(on_folder, "r-x") in facl.read(company / folder),
        f"the lists on disk of {found.place} are not those that the answer named",
    )


def _gid(grant: Grant) -> int:
    """The group of a reason. Raises BrokenClaimError when it is none."""
    match = re.fullmatch(rf"posix:{people.ID_DOMAIN}:gid-(\d+)", grant.principal)
    if match is None:
        raise BrokenClaimError(f"`{grant.principal}` is no group, and the demo's documents are opened to groups")
    return int(match[1])


def _named(line: str, names: dict[int, str]) -> str:
    match = re.match(r"group:(\d+):", line)
    return f"        # {names[int(match[1])]}" if match and int(match[1]) in names else ""
