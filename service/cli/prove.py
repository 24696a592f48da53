"""`remit prove …`: examine a running deployment as a tester would, and take a signed report away.

Exit codes: 0 everything that was checked held; 1 something did not; 2 it could not be checked, which is never a pass.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.connect import Context, Json, context
from service.cli.screen import complain, err, out, print_json
from service.errors import RemitError, StartError

if TYPE_CHECKING:
    from service.prove.deployment import Deployment
    from service.prove.report import Part

app = typer.Typer(no_args_is_help=True, help="Examine this deployment and sign what was found.", rich_markup_mode=None)

Person = Annotated[str, typer.Option("--as", help="Whose access is examined: a login name.", show_default=False)]
Token = Annotated[
    str,
    typer.Option(
        "--token", envvar="REMIT_TOKEN", help="That person's token, where none is minted.", show_default=False
    ),
]
Allow = Annotated[str, typer.Option("--allow", help="What the person should read: a source or a folder of one.")]
Deny = Annotated[str, typer.Option("--deny", help="What the person should not read.")]
Auditor = Annotated[
    str, typer.Option("--auditor", help="Mint the auditor's token for this person.", show_default=False)
]
AuditorToken = Annotated[
    str,
    typer.Option(
        "--auditor-token", envvar="REMIT_AUDITOR_TOKEN", help="Of somebody with the role `auditor`.", show_default=False
    ),
]
Operator = Annotated[
    str, typer.Option("--operator", help="Mint the operator's token for this person.", show_default=False)
]
OperatorToken = Annotated[
    str,
    typer.Option(
        "--operator-token",
        envvar="REMIT_OPERATOR_TOKEN",
        help="Of somebody with the role `operator`.",
        show_default=False,
    ),
]
Witness = Annotated[
    str, typer.Option("--witness", help="Mint a token for somebody who may read what is denied.", show_default=False)
]
WitnessToken = Annotated[
    str, typer.Option("--witness-token", envvar="REMIT_WITNESS_TOKEN", help="That person's token.", show_default=False)
]
Also = Annotated[list[str] | None, typer.Option("--people", help="Also in the picture; may be repeated.")]
Out = Annotated[Path | None, typer.Option("--out", help="A new folder for the report.", show_default=False)]
Key = Annotated[
    Path | None, typer.Option("--key", help="Signs reports; made when it is not there.", show_default=False)
]
Rounds = Annotated[int, typer.Option(min=1, max=1000, help="How often each kind of change is tried.")]
Limit = Annotated[float, typer.Option("--within", min=0.1, help="Seconds after which a right must be gone.")]
Pairs = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many pairs of people and documents.")]
Seed = Annotated[int, typer.Option(help="Chooses the pairs; random without it.", show_default=False)]


@dataclass(frozen=True)
class _Tokens:
    person: tuple[str, str]
    auditor: tuple[str, str]
    operator: tuple[str, str]
    witness: tuple[str, str]
    people: tuple[str, ...]
    out: Path | None
    key: Path | None


@app.command()
def isolation(
    ctx: typer.Context,
    allow: Allow,
    deny: Deny,
    person: Person,
    token: Token = "",
    auditor: Auditor = "",
    auditor_token: AuditorToken = "",
    operator: Operator = "",
    operator_token: OperatorToken = "",
    witness: Witness = "",
    witness_token: WitnessToken = "",
    people: Also = None,
    out: Out = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Show that somebody who should see one area and not another does exactly that, by live questions."""
    from service.prove import isolation as proof

    tokens = _tokens(
        person, token, auditor, auditor_token, operator, operator_token, witness, witness_token, people, out, key
    )
    _run(ctx, "isolation", tokens, json, lambda there: [proof.prove(there, allow, deny, person)])


@app.command()
def revocation(
    ctx: typer.Context,
    allow: Allow,
    person: Person,
    rounds: Rounds = 5,
    within: Limit = 60.0,
    token: Token = "",
    auditor: Auditor = "",
    auditor_token: AuditorToken = "",
    operator: Operator = "",
    operator_token: OperatorToken = "",
    out: Out = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Measure how long a right lasts after it was taken away at the source, for every kind of change."""
    from service.prove import revocation as proof

    tokens = _tokens(person, token, auditor, auditor_token, operator, operator_token, "", "", None, out, key)
    _run(ctx, "revocation", tokens, json, lambda there: [proof.prove(there, allow, person, rounds, within)])


@app.command()
def oracle(
    ctx: typer.Context,
    person: Person,
    people: Also = None,
    pairs: Pairs = 1000,
    seed: Seed = 0,
    token: Token = "",
    auditor: Auditor = "",
    auditor_token: AuditorToken = "",
    operator: Operator = "",
    operator_token: OperatorToken = "",
    out: Out = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Compare decisions with the source's own answers: for a file system, those of the running kernel (as root)."""
    from service.prove import oracle as proof

    tokens = _tokens(person, token, auditor, auditor_token, operator, operator_token, "", "", people, out, key)
    chosen = seed or secrets.randbelow(2**31)
    _run(
        ctx,
        "oracle",
        tokens,
        json,
        lambda there: [proof.prove(there, _everybody(there, person, tokens.people), pairs, chosen)],
    )


@app.command("all")
def everything(
    ctx: typer.Context,
    allow: Allow,
    deny: Deny,
    person: Person,
    rounds: Rounds = 3,
    within: Limit = 60.0,
    pairs: Pairs = 1000,
    token: Token = "",
    auditor: Auditor = "",
    auditor_token: AuditorToken = "",
    operator: Operator = "",
    operator_token: OperatorToken = "",
    witness: Witness = "",
    witness_token: WitnessToken = "",
    people: Also = None,
    out: Out = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Isolation, revocation and oracle in one report: for a schedule."""
    from service.prove import isolation as isolations
    from service.prove import oracle as oracles
    from service.prove import revocation as revocations

    tokens = _tokens(
        person, token, auditor, auditor_token, operator, operator_token, witness, witness_token, people, out, key
    )
    _run(
        ctx,
        "all",
        tokens,
        json,
        lambda there: [
            _part("isolation", lambda: isolations.prove(there, allow, deny, person)),
            _part("revocation", lambda: revocations.prove(there, allow, person, rounds, within)),
            _part(
                "oracle",
                lambda: oracles.prove(there, _everybody(there, person, tokens.people), pairs, secrets.randbelow(2**31)),
            ),
        ],
    )


@app.command()
def verify(
    ctx: typer.Context,
    report: Annotated[Path, typer.Argument(help="A `report.json`.")],
    key: Annotated[Path | None, typer.Option(help="The public key; else that beside the prover's key.")] = None,
    json: Json = False,
) -> None:
    """Check who signed a report, and that it is about this deployment. Exit code 1 when one is not so."""
    from service.prove import report as reports

    settings = context(ctx).settings
    public = key if key is not None else settings.keys.audit.with_name("prove.pub")
    own = settings.keys.audit.with_suffix(".pub")
    try:
        verifier, audit_key = reports.verifier_of(public), reports.verifier_of(own)
        data = reports.read(report)
    except StartError as error:
        complain(str(error))
        raise typer.Exit(2) from None
    try:
        body = reports.verify(data, verifier, audit_key)
    except reports.ReportError as error:
        complain(f"{report}: {error}")
        raise typer.Exit(1) from None
    if json:
        print_json({"ok": True, "proof": body["proof"], "result": body["result"], "key": verifier.text})
    else:
        out.print(f"[green]signed[/] by {verifier.name}: {body['proof']} of {body['began'][:10]}, {body['result']}")


def _tokens(
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
) -> _Tokens:
    return _Tokens(
        (token, "" if token else person),
        ("", auditor) if auditor else (auditor_token, ""),
        ("", operator) if operator else (operator_token, ""),
        ("", witness) if witness else (witness_token, ""),
        tuple(people or ()),
        out,
        key,
    )


def _everybody(there: Deployment, person: str, people: tuple[str, ...]) -> list[str]:
    from service.prove.matrix import people_of

    return sorted({person, *people, *people_of(there.settings)})


def _part(name: str, made: Callable[[], Part]) -> Part:
    """A proof among others: that it could not be made is written down, and the others go on."""
    from remit.client import RemitError as ClientError

    from service.prove.report import Check, Part, Result

    try:
        return made()
    except (RemitError, ClientError, OSError) as error:
        return Part(name, [Check(f"{name} can be examined", Result.NOT_RUN, str(error))])


def _run(ctx: typer.Context, name: str, tokens: _Tokens, json: bool, made: Callable[[Deployment], list[Part]]) -> None:
    from remit.client import RemitError as ClientError

    try:
        result = _examine(context(ctx), name, tokens, json, made)
    except (RemitError, ClientError, OSError) as error:
        complain(f"this could not be proved: {error}")
        raise typer.Exit(2) from None
    if result:
        raise typer.Exit(result)


def _examine(found: Context, name: str, tokens: _Tokens, json: bool, made: Callable[[Deployment], list[Part]]) -> int:
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
        )
        caller = there.person.get_caller()
        there.auditor.get_checkpoint()
        parts = made(there)
        people = _everybody(there, tokens.person[1] or caller.subject, tokens.people)
        picture = matrix.draw(there, people, there.documents())
        signed = there.auditor.get_checkpoint()
        body = report.document(
            report.Made(
                proof=name,
                began=began,
                ended=datetime.now(UTC),
                person=tokens.person[1] or caller.display_name or caller.subject,
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


def _print(json: bool, body: dict[str, object], folder: Path, recorded: str) -> None:
    if json:
        print_json(
            {"result": body["result"], "report": folder / "report.json", "record": recorded, "parts": body["parts"]}
        )
        return
    marks = {"passed": "[green]held   [/]", "failed": "[red]failed [/]", "not_run": "[yellow]not run[/]"}
    from rich.markup import escape

    for part in body["parts"]:  # type: ignore[attr-defined]  # as `report.document` made it
        out.print(f"[bold]{part['proof']}[/]")
        for check in part["checks"]:
            out.print(f"  {marks[check['result']]} {escape(check['claim'])}")
            out.print(f"          [dim]{escape(check['detail'])}[/]")
    out.print(f"{folder / 'report.html'}, signed in {folder / 'report.json'}; on record as {recorded}")
    sys.stdout.flush()
