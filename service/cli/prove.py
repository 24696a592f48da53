"""`remit prove …`: examine a running deployment as a tester would, and take a signed report away.

Exit codes: 0 everything that was checked held; 1 something did not; 2 it could not be checked, which is never a pass.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.connect import Json, context
from service.cli.prove_run import examined, hands, part, run, tokens_of
from service.cli.screen import complain, out, print_json
from service.errors import StartError

if TYPE_CHECKING:
    from service.prove.hands import Hands

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
Also = Annotated[
    list[str] | None, typer.Option("--people", help="Also pictured, and examined by `oracle`; repeatable.")
]
Out = Annotated[Path | None, typer.Option("--out", help="A new folder for the report.", show_default=False)]
Key = Annotated[
    Path | None, typer.Option("--key", help="Signs reports; made when it is not there.", show_default=False)
]
Rounds = Annotated[int, typer.Option(min=1, max=1000, help="How often each kind of change is tried.")]
Limit = Annotated[float, typer.Option("--within", min=0.1, help="Seconds after which a right must be gone.")]
Pairs = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many pairs of people and documents.")]
Login = Annotated[
    list[str] | None,
    typer.Option(
        "--login",
        help="NAME=FILE: a person whom the server of an `smb` source is asked as, and the file with their password; "
        "may be repeated.",
    ),
]
ShareLogin = Annotated[
    str,
    typer.Option(
        "--share-login",
        help="NAME=FILE: an account that may write to the share of an `smb` source, and the file with its password.",
        show_default=False,
    ),
]
DatabaseUrl = Annotated[
    Path | None,
    typer.Option(
        "--database-url",
        help="A file with the URL, password included, of a connection that may write to the database of an `sql` "
        "source.",
        show_default=False,
    ),
]
DirectoryLogin = Annotated[
    str,
    typer.Option(
        "--directory-login",
        help="NAME=FILE: an account that may change a group of a directory, and the file with its password.",
        show_default=False,
    ),
]
DirectoryName = Annotated[
    str, typer.Option("--directory", help="Which directory that is, when there are several.", show_default=False)
]
DirectoryUnit = Annotated[
    str,
    typer.Option("--directory-unit", help="The DN below which a throw-away group may be made.", show_default=False),
]
DirectoryGroup = Annotated[
    str,
    typer.Option(
        "--directory-group",
        help="The DN of a group that the person is in: out of it, and back, each round.",
        show_default=False,
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", help="A kind of change that is not tried, on purpose; may be repeated."),
]
Seed = Annotated[int, typer.Option(help="Chooses the pairs; random without it.", show_default=False)]


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
    share_login: ShareLogin = "",
    database_url: DatabaseUrl = None,
    out: Out = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Show that somebody who should see one area and not another does exactly that, by live questions."""
    from service.prove import isolation as proof

    tokens = tokens_of(
        person, token, auditor, auditor_token, operator, operator_token, witness, witness_token, people, out, key
    )
    run(
        ctx,
        "isolation",
        tokens,
        json,
        lambda there: [proof.prove(there, allow, deny, person, hands(share_login, database_url))],
    )


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
    share_login: ShareLogin = "",
    database_url: DatabaseUrl = None,
    directory_login: DirectoryLogin = "",
    directory: DirectoryName = "",
    directory_unit: DirectoryUnit = "",
    directory_group: DirectoryGroup = "",
    without: Without = None,
    out: Out = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Measure how long a right lasts after its end at the source or in the directory, for every kind of change."""
    from service.prove import revocation as proof

    tokens = tokens_of(person, token, auditor, auditor_token, operator, operator_token, "", "", None, out, key)
    group = (directory_login, directory, directory_unit, directory_group)
    run(
        ctx,
        "revocation",
        tokens,
        json,
        lambda there: [
            proof.prove(there, allow, person, rounds, within, hands(share_login, database_url, *group, without))
        ],
    )


@app.command()
def oracle(
    ctx: typer.Context,
    person: Person,
    people: Also = None,
    login: Login = None,
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
    """Compare decisions with the source's own answers: of the running kernel (as root), of a share's server."""
    from service.prove import oracle as proof

    tokens = tokens_of(person, token, auditor, auditor_token, operator, operator_token, "", "", people, out, key)
    chosen = seed or secrets.randbelow(2**31)
    run(
        ctx,
        "oracle",
        tokens,
        json,
        lambda there: [proof.prove(there, examined(there, person, tokens.people, login), pairs, chosen)],
    )


@app.command("all")
def everything(
    ctx: typer.Context,
    allow: Allow,
    deny: Deny,
    person: Person,
    rounds: Rounds = 3,
    within: Limit = 60.0,
    login: Login = None,
    pairs: Pairs = 1000,
    token: Token = "",
    auditor: Auditor = "",
    auditor_token: AuditorToken = "",
    operator: Operator = "",
    operator_token: OperatorToken = "",
    witness: Witness = "",
    witness_token: WitnessToken = "",
    people: Also = None,
    share_login: ShareLogin = "",
    database_url: DatabaseUrl = None,
    directory_login: DirectoryLogin = "",
    directory: DirectoryName = "",
    directory_unit: DirectoryUnit = "",
    directory_group: DirectoryGroup = "",
    without: Without = None,
    out: Out = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Isolation, revocation and oracle in one report: for a schedule."""
    from service.prove import isolation as isolations
    from service.prove import oracle as oracles
    from service.prove import revocation as revocations

    tokens = tokens_of(
        person, token, auditor, auditor_token, operator, operator_token, witness, witness_token, people, out, key
    )
    group = (directory_login, directory, directory_unit, directory_group)

    def given() -> Hands:
        return hands(share_login, database_url, *group, without)

    run(
        ctx,
        "all",
        tokens,
        json,
        lambda there: [
            part("isolation", lambda: isolations.prove(there, allow, deny, person, given())),
            part("revocation", lambda: revocations.prove(there, allow, person, rounds, within, given())),
            part(
                "oracle",
                lambda: oracles.prove(
                    there, examined(there, person, tokens.people, login), pairs, secrets.randbelow(2**31)
                ),
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
