"""`remit source holds` and `approve` against a running service: a broken export puts everybody into a group."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from tests.service.test_cli import Running, lay_out, served

_DOCUMENTS = 25


def _export(folder: Path, *members: str) -> None:
    """Write the feed: documents that one group of it reads, and who is in that."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    lines: list[dict[str, object]] = [
        {"kind": "feed", "version": 1, "exported_at": now},
        {"kind": "group", "group": "source:crm:finance", "name": "Finance [all]", "members": list(members)},
    ]
    lines += [
        {
            "kind": "document",
            "id": f"d{number}",
            "title": f"Budget {number}",
            "location": f"budget/{number}",
            "media_type": "text/plain",
            "modified_at": now,
            "rules": [{"effect": "allow", "principals": ["source:crm:finance"]}],
            "text": f"the lighthouse costs {number} crowns",
        }
        for number in range(_DOCUMENTS)
    ]
    lines.append({"kind": "end", "scopes": 0, "documents": _DOCUMENTS, "groups": 1})
    (folder / "crm.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _hits(running: Running, person: str) -> int:
    found = running.json("search", "lighthouse", "--source", "crm", "--as", person)
    assert isinstance(found, dict)
    return len(found["hits"])


def test_members_that_are_held_are_shown_with_their_group_and_let_in_by_a_word(tmp_path: Path) -> None:
    """Bob is not in until somebody with the role says so, and Alice is in all the time; the log names counts alone."""
    lay_out(tmp_path)
    settings = tmp_path / "remit.yaml"
    text = settings.read_text().partition("sources:\n  - {name: company")[0]
    text = text.replace("#  access-admin: [group:access]", "  access-admin: [group:operators]")
    settings.write_text(
        text + "sources:\n  - {name: crm, kind: feed, path: ./crm.jsonl, audience: ['static:people:members']}\n"
    )
    _export(tmp_path, "static:people:user-u-1001")
    with served(tmp_path) as running:
        assert running.run("source", "sync", "crm", "--as", "alice").returncode == 0
        assert (_hits(running, "alice") > 0, _hits(running, "bob")) == (True, 0)

        _export(tmp_path, "static:people:user-u-1001", "static:people:user-u-1002", "static:people:user-u-1003")
        assert running.run("source", "sync", "crm", "--as", "alice").returncode == 0

        shown = running.run("source", "holds", "--as", "alice")
        assert "members" in shown.stdout
        assert "Finance [all] (source:crm:finance): 2 would join" in " ".join(shown.stdout.split())
        assert "static:people:user-u-1002" in shown.stdout
        told = running.json("source", "holds", "--as", "alice")
        assert isinstance(told, list)
        (hold,) = told
        assert (hold["kind"], hold["documents"], hold["total"]) == ("members", _DOCUMENTS, _DOCUMENTS)
        assert hold["groups"] == [
            {
                "group": "source:crm:finance",
                "name": "Finance [all]",
                "joining": 2,
                "leaving": 0,
                "documents": _DOCUMENTS,
                "examples": ["static:people:user-u-1002", "static:people:user-u-1003"],
            }
        ]
        assert (_hits(running, "alice") > 0, _hits(running, "bob")) == (True, 0)

        approved = running.run("source", "approve", hold["hold_id"], "--as", "alice")
        assert approved.returncode == 0, approved.stderr
        assert running.run("source", "sync", "crm", "--as", "alice").returncode == 0
        assert (_hits(running, "alice") > 0, _hits(running, "bob") > 0) == (True, True)
        assert running.json("source", "holds", "--as", "alice") == []
        log = running.run("audit", "list", "--class", "ingest", "--as", "adam", "--json")
        assert log.returncode == 0, log.stderr
        (record,) = [line for line in log.stdout.splitlines() if '"held"' in line]
        assert '"groups":1' in record.replace(" ", "")
        assert "u-1002" not in record
        assert "Finance" not in record
