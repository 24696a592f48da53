"""How records of the audit log look on a screen: an answer in full, and a line for each of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from service.cli.screen import out

if TYPE_CHECKING:
    from remit.client.audit_values import AuditRecord


def print_answer(found: Sequence[AuditRecord]) -> None:
    """One answer, which may have several records: who asked, how it ended, and every passage with its reason."""
    gone = [one for one in found if one.expired is not None]
    for one in gone:
        assert one.expired is not None
        out.print(
            f"record {one.index} (leaf {one.leaf_hash.hex()[:16]}…) of class {one.expired.record_class}, written on "
            f"{one.expired.day}: expired by retention, its body was destroyed"
        )
    found = [one for one in found if one.expired is None]
    if not found:
        return
    record = found[0].record
    body = record["body"]
    out.print(f"[bold]response {escape(str(body.get('response_id', '')))}[/]")
    rows = [
        ("asked by", _who(body)),
        ("when", str(record["time"])),
        ("call", f"{body.get('rpc', '')}: {_outcome(body)} in {int(body.get('latency_us', 0)) / 1000:.1f} ms"),
    ]
    authority = body.get("authority")
    if authority is not None:
        age = int(authority["resolution_age_us"]) / 1_000_000
        rows.append(("held", f"{authority['principals']} principals, resolved {age:.1f} s before the decision"))
    for name in ("query", "epochs", "withheld", "candidates", "conditions", "target", "about", "checked"):
        if name in body:
            rows.append((name, _compact(body[name])))
    rows.append(("records", ", ".join(f"{one.index} (leaf {one.leaf_hash.hex()[:16]}…)" for one in found)))
    for name, text in rows:
        out.print(f"  {name:10} {escape(text)}")
    passages = [one for part in found for one in part.record["body"].get("returned", ())]
    if "returned" in body:
        out.print(f"[bold]{len(passages)} passages[/]" if passages else "[bold]no passage was returned[/]")
    for one in passages:
        start, end = one["span"]
        out.print(f"  {one['rank']}. {escape(one['source'])} document {one['document_id']} version {one['version']}")
        out.print(f"     passage {one['chunk_id']}, characters {start} to {end}, sha256 {one['content_sha256']}")
        for match in one["matches"]:
            why = f"clause {match['clause']}, rule {match['rule']}: {match['principal']}"
            out.print(f"     [green]allowed[/] by ACL {one['acl_id']}, {escape(why)}")


def kind_of(one: AuditRecord) -> str:
    """The class of a record, whether its body is there or not."""
    return str(one.record["class"]) if one.expired is None else one.expired.record_class


def plain(one: AuditRecord) -> dict[str, object]:
    """What a record says, for machines."""
    if one.expired is None:
        return {"record": one.record}
    return {"expired": {"class": one.expired.record_class, "day": one.expired.day.isoformat()}}


def print_records(found: Sequence[AuditRecord], *, header: bool = True) -> None:
    """A line for each record."""
    if not found and header:
        out.print("no record")
        return
    table = Table("record", "time", "who", "what", "outcome", "passages", "response", box=None, show_header=header)
    for one in found:
        if one.expired is not None:
            day, kind = one.expired.day.isoformat(), one.expired.record_class
            table.add_row(str(one.index), day, "", kind, "expired by retention", "", "")
            continue
        record = one.record
        body = record["body"]
        returned = body.get("returned")
        table.add_row(
            str(one.index),
            str(record["time"])[:19] + "Z",
            escape(_who(body)),
            escape(_what(record)),
            escape(_outcome(body)),
            "" if returned is None else str(len(returned)),
            escape(str(body.get("response_id", ""))),
        )
    out.print(table)


def _who(body: Mapping[str, Any]) -> str:
    actor = body.get("actor")
    if actor is None:
        return str(body.get("peer", "")) or "the service"
    return str(actor["account"] or actor["subject"])


def _what(record: Mapping[str, Any]) -> str:
    body = record["body"]
    if "rpc" in body:
        return str(body["rpc"]).removeprefix("remit.v1.") + (f" {body['target']}" if body.get("target") else "")
    named = " ".join(str(body[key]) for key in ("event", "source", "command") if key in body)
    return f"{record['class']} {named}".strip()


def _outcome(body: Mapping[str, Any]) -> str:
    reason = str(body.get("reason", "")) or str(body.get("code", ""))
    return f"{reason} ({body['detail']})" if body.get("detail") else reason


def _compact(value: object) -> str:
    match value:
        case Mapping():
            return ", ".join(f"{key} {_compact(one)}" for key, one in value.items())
        case list():
            return " ".join(_compact(one) for one in value) or "all"
        case _:
            return str(value)
