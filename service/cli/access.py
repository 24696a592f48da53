"""`remit access …`: who may read what, why, and what a change would do (role `access-admin` or `auditor`).

Every question is recorded in the audit log, with whom it was about. No command shows any text of a document.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import typer

from service.cli import access_screen
from service.cli.connect import As, Json, Token, context
from service.cli.screen import print_json
from service.errors import StartError

if TYPE_CHECKING:
    from remit.client import ReviewClient

app = typer.Typer(no_args_is_help=True, help="Who may read what, and why (role `access-admin` or `auditor`).")

_ID: Final = re.compile(r"[A-Za-z0-9_-]{24}")

User = Annotated[str, typer.Argument(help="A login name, or the immutable id that tokens name.")]
Document = Annotated[str, typer.Argument(help="A document's id, or where it stands: a part that no other has.")]
From = Annotated[str, typer.Option("--directory", help="The person's directory; else the first of the settings.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Only of this source; may be repeated.")]


@app.command()
def explain(
    ctx: typer.Context,
    user: User,
    document: Document,
    directory: From = "",
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Say why somebody may read a document, or not, clause by clause. Exit code 0 in both cases."""
    with context(ctx).reviewer(token, person) as reviewer:
        found = reviewer.explain_user_access(user, _document(reviewer, document), directory=directory)
    if json:
        print_json(found)
    else:
        access_screen.print_explained(found)


@app.command()
def who(ctx: typer.Context, document: Document, token: Token = "", person: As = "", json: Json = False) -> None:
    """Say who may read a document, and by what."""
    with context(ctx).reviewer(token, person) as reviewer:
        found = reviewer.list_readers(_document(reviewer, document))
    if json:
        print_json(found)
    else:
        access_screen.print_readers(found)


@app.command()
def documents(
    ctx: typer.Context,
    user: User,
    directory: From = "",
    source: Sources = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """List the documents that somebody may read now."""
    with context(ctx).reviewer(token, person) as reviewer:
        page = reviewer.list_user_documents(user, directory=directory, sources=source or (), page_size=min(limit, 1000))
        found = list(page.documents)
        while page.next_page_token and len(found) < limit:
            page = reviewer.list_user_documents(
                user,
                directory=directory,
                sources=source or (),
                page_size=min(limit, 1000),
                page_token=page.next_page_token,
            )
            found += page.documents
    more = bool(page.next_page_token) or len(found) > limit
    if json:
        print_json({"user": page.user, "documents": found[:limit], "more": more, "freshness": page.freshness})
    else:
        access_screen.print_documents(page.user, found[:limit], more)


@app.command()
def review(
    ctx: typer.Context,
    source: Sources = None,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """List what each user, group and class opens of each source, and when that was last used: for recertification.

    With `--json`, one object a line.
    """
    with context(ctx).reviewer(token, person) as reviewer:
        page = reviewer.list_grants(sources=source or (), page_size=1000)
        found = list(page.grants)
        while page.next_page_token:
            page = reviewer.list_grants(sources=source or (), page_size=1000, page_token=page.next_page_token)
            found += page.grants
    if json:
        for one in found:
            print_json(one)
    else:
        access_screen.print_grants(found)


@app.command()
def diff(
    ctx: typer.Context,
    user: Annotated[str, typer.Option(help="Somebody who would leave or join a group.")] = "",
    leaves: Annotated[str, typer.Option(help="The group: its id in the directory, or its token.")] = "",
    joins: Annotated[str, typer.Option(help="The group: its id in the directory, or its token.")] = "",
    document: Annotated[str, typer.Option(help="A document whose clause would change.")] = "",
    container: Annotated[str, typer.Option(help="The place or id of one of its containers, for its clause.")] = "",
    revoke: Annotated[list[str] | None, typer.Option(help="A token to take out of every allow rule.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="A token to allow, before the rules that are there.")] = None,
    deny: Annotated[list[str] | None, typer.Option(help="A token to deny, before all other rules.")] = None,
    directory: From = "",
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Say what would change if somebody left or joined a group, or if a clause changed. Nothing is changed."""
    if bool(user) == bool(document):
        raise StartError("what would change? Give `--user` with `--leaves` or `--joins`, or `--document` with a change")
    if user and bool(leaves) == bool(joins):
        raise StartError("give `--leaves GROUP` or `--joins GROUP`, one of them")
    if document and not (revoke or allow or deny):
        raise StartError("give at least one of `--revoke`, `--allow` and `--deny` with a principal's token")
    with context(ctx).reviewer(token, person) as reviewer:
        if user:
            found = reviewer.preview_membership(user, leaves or joins, join=bool(joins), directory=directory)
        else:
            document_id = _document(reviewer, document)
            found = reviewer.preview_clause(
                document_id,
                scope=_container(reviewer, document_id, container),
                revoke=revoke or (),
                allow=allow or (),
                deny=deny or (),
            )
    if json:
        print_json(found)
    else:
        access_screen.print_preview(found)


def _document(reviewer: ReviewClient, document: str) -> str:
    """The id of the document that is meant: an id is taken as it is, anything else is a part of a location."""
    if _ID.fullmatch(document):
        return document
    exact = [one for one in reviewer.list_documents(document) if one.location == document]
    if len(exact) == 1:
        return exact[0].document_id
    found = exact or list(islice(reviewer.list_documents(document), 6))
    if not found:
        raise StartError(f"there is no document at `{document}`")
    if len(found) > 1:
        listed = ", ".join(f"`{one.location}` of `{one.source}` ({one.document_id})" for one in found[:5])
        raise StartError(f"`{document}` is a part of several locations, such as {listed}: give an id")
    return found[0].document_id


def _container(reviewer: ReviewClient, document_id: str, container: str) -> str:
    if not container:
        return ""
    clauses = [one for one in reviewer.list_readers(document_id).clauses if one.scope]
    for one in clauses:
        if container in (one.scope, one.clause):
            return one.scope
    listed = ", ".join(f"`{one.clause}`" for one in clauses) or "none"
    raise StartError(f"the document does not lie in a container `{container}`: its containers are {listed}")
