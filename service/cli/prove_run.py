"""How a proof is run: clients with the tokens of all who ask, a signed report that is put on record, an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from service.cli.connect import Context, context
from service.cli.screen import complain, err, out, print_json
from service.errors import RemitError, StartError

if TYPE_CHECKING:
    from service.prove.deployment import Deployment
    from service.prove.hands import Hands
    from service.prove.oracle import Examined
    from service.prove.report import Part


@dataclass(frozen=True)
class Tokens:
    """Who asks, each by a token or by the name to mint one for. name: of the person who is examined."""

    name: str
    person: tuple[str, str]
    auditor: tuple[str, str]
    operator: tuple[str, str]
    witness: tuple[str, str]
    people: tuple[str, ...]
    out: Path | None
    key: Path | None


def tokens_of(
    person: str,
    token: str,
    auditor: str,
    auditor_token: str,
    operator: str,
    operator_token: str,
    witness: str,
    witness_token: str,
    people: list[str] | None,
    out: Path | None,
    key: Path | None,
) -> Tokens:
    return Tokens(
        person,
        (token, "" if token else person),
        ("", auditor) if auditor else (auditor_token, ""),
        ("", operator) if operator else (operator_token, ""),
        ("", witness) if witness else (witness_token, ""),
        tuple(people or ()),
        out,
        key,
    )


def everybody(there: Deployment, person: str, people: tuple[str, ...]) -> list[str]:
    from service.prove.matrix import people_of

    return sorted({person, *people, *people_of(there.settings)})


def examined(there: Deployment, person: str, people: tuple[str, ...], logins: list[str] | None) -> Examined:
    """Who an oracle is about. Raises StartError."""
    from service.prove.oracle import Examined
    from service.prove.share import logins_of

    return Examined(everybody(there, person, people), (person, *people), logins_of(logins or ()))


def hands(
    share: str,
    database: Path | None,
    directory: str = "",
    name: str = "",
    unit: str = "",
    group: str = "",
    without: list[str] | None = None,
) -> Hands:
    """By whom a proof may write. Raises StartError."""
    from service.prove.hands import hands_of

    return hands_of(share, database, directory, name, unit, group, without or ())


def part(name: str, made: Callable[[], Part]) -> Part:
    """A proof among others: that it could not be made is written down, and the others go on."""
    from remit.client import RemitError as ClientError

    from service.prove.report import Check, Part, Result

    try:
        return made()
    except (RemitError, ClientError, OSError) as error:
        return Part(name, [Check(f"{name} can be examined", Result.NOT_RUN, str(error))])


def run(ctx: typer.Context, name: str, tokens: Tokens, json: bool, made: Callable[[Deployment], list[Part]]) -> None:
    from remit.client import RemitError as ClientError

    try:
        result = _examine(context(ctx), name, tokens, json, made)
    except (RemitError, ClientError, OSError) as error:
        complain(f"this could not be proved: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        complain(
            "this was stopped before it was proved; what was planted and changed is put back, or named above, and the "
            "service forgets the canaries by its next run over the source"
        )
        raise typer.Exit(2) from None
    if result:
        raise typer.Exit(result)


def _examine(found: Context, name: str, tokens: Tokens, json: bool, made: Callable[[Deployment], list[Part]]) -> int:
    import hashlib
    from importlib.metadata import version

    from service.prove import matrix, page, report
    from service.prove.deployment import Deployment

    if not any(tokens.auditor):
        raise StartError("who audits? Give a token of the role `auditor` with REMIT_AUDITOR_TOKEN, or `--auditor NAME`")
    signer = report.signer_of(tokens.key or found.settings.keys.audit.with_name("prove.key"))
    began = datetime.now(UTC)
    folder = tokens.out or Path(f"prove-{name}-{began:%Y%m%dT%H%M%SZ}")
    if folder.exists():
        raise StartError(f"{folder} is there already: name a new folder with `--out`")
    if not json:
        err.print(f"examining {found.settings.file} …")
    with ExitStack() as clients:
        there = Deployment(
            settings=found.settings,
            person=clients.enter_context(found.client(*tokens.person)),
            auditor=clients.enter_context(found.auditor(*tokens.auditor)),
            reviewer=clients.enter_context(found.reviewer(*tokens.auditor)),
            operator=clients.enter_context(found.admin(*tokens.operator)) if any(tokens.operator) else None,
            witness=clients.enter_context(found.client(*tokens.witness)) if any(tokens.witness) else None,
            say=lambda line: err.print(escape(line)),
        )
        caller = there.person.get_caller()
        there.auditor.get_checkpoint()
        _require_same(there, tokens.name, caller.subject)
        try:
            parts = made(there)
        except KeyboardInterrupt:
            # A call that was broken off in the middle is never over for its channel, and closing waits for that.
            clients.pop_all()
            raise
        people = everybody(there, tokens.name, tokens.people)
        picture = matrix.draw(there, people, there.documents())
        signed = there.auditor.get_checkpoint()
        body = report.document(
            report.Made(
                proof=name,
                began=began,
                ended=datetime.now(UTC),
                person=tokens.name,
                version=version("remit-server"),
                audit_key=signed.public_key,
                checkpoint=signed.checkpoint.decode(),
            ),
            parts,
            picture,
        )
        data = report.sign(body, signer)
        folder.mkdir(parents=True)
        (folder / "report.json").write_bytes(data)
        (folder / "report.html").write_text(page.write(data, body, signer.verifier.text), "utf-8")
        checks = [check for part in parts for check in part.checks]
        recorded = there.auditor.record_proof(
            name,
            str(body["result"]),
            hashlib.sha256(data).digest(),
            checks=len(checks),
            failed=sum(check.result is report.Result.FAILED for check in checks),
        )
    _print(json, body, folder, recorded)
    return {report.Result.PASSED.value: 0, report.Result.FAILED.value: 1}.get(str(body["result"]), 2)


def _require_same(there: Deployment, name: str, subject: str) -> None:
    """What is asked live and what is explained must be about one person. Raises StartError."""
    account = there.reviewer.list_user_documents(name, page_size=1).user.account
    if account != subject:
        raise StartError(f"the token is that of `{subject}`, and `--as {name}` is `{account}`")


def _print(json: bool, body: dict[str, object], folder: Path, recorded: str) -> None:
    if json:
        print_json(
            {"result": body["result"], "report": folder / "report.json", "record": recorded, "parts": body["parts"]}
        )
        return
    marks = {
        "passed": "[green]held   [/]",
        "failed": "[red]failed [/]",
        "not_run": "[yellow]not run[/]",
        "left_out": "[dim]left out[/]",
    }
    for part in body["parts"]:  # type: ignore[attr-defined]  # as `report.document` made it
        out.print(f"[bold]{part['proof']}[/]")
        for check in part["checks"]:
            out.print(f"  {marks[check['result']]} {escape(check['claim'])}")
            out.print(f"          [dim]{escape(check['detail'])}[/]")
    out.print(f"{folder / 'report.html'}, signed in {folder / 'report.json'}; on record as {recorded}")
    sys.stdout.flush()
