"""Records of the audit log as events of the Open Cybersecurity Schema Framework, for SIEMs. Pure.

The whole record stands under `unmapped`, so that nothing is lost; what OCSF has a place for is also there. An event is
a copy: evidence is the log, to which `metadata.uid` leads.
Source: OCSF 1.5, classes 2004 Detection Finding, 3002 Authentication, 6002 Application Lifecycle, 6003 API Activity,
6005 Datastore Activity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

VERSION: Final = "1.5.0"

_FINDING: Final = 2004
_AUTHENTICATION: Final = 3002
_LIFECYCLE: Final = 6002
_API: Final = 6003
_DATASTORE: Final = 6005

_CREATE: Final = 1
_READ: Final = 1
_QUERY: Final = 4
_LOGON: Final = 1
_OTHER: Final = 99
_LIFECYCLE_ACTIVITIES: Final = {"started": 3, "stopped": 4}

_SUCCESS: Final = 1
_FAILURE: Final = 2

_INFORMATIONAL: Final = 1
_LOW: Final = 2
_MEDIUM: Final = 3
_CRITICAL: Final = 5
_ALARMING: Final = frozenset({"UNAUTHENTICATED", "ROLE_REQUIRED", "INTERNAL"})


def event(record: Mapping[str, Any], origin: str, version: str) -> dict[str, object]:
    """The event of one record. origin: the log's. version: of the software."""
    body = record["body"]
    category, kind, activity = _class_of(record)
    reason = str(body.get("reason", ""))
    failed = bool(reason) or bool(body.get("failure")) or body.get("event") == "failed"
    made: dict[str, object] = {
        "category_uid": category,
        "class_uid": kind,
        "activity_id": activity,
        "type_uid": kind * 100 + activity,
        "severity_id": _severity(kind, reason, failed=failed),
        "status_id": _FAILURE if failed else _SUCCESS,
        "time": int(datetime.fromisoformat(record["time"]).timestamp() * 1000),
        "metadata": {
            "version": VERSION,
            "product": {"name": "Remit", "vendor_name": "Remit", "version": version},
            "uid": f"{origin}/{record['index']}",
            "log_name": origin,
            "sequence": record["index"],
        },
        "unmapped": dict(record),
    }
    if reason:
        made["status_code"] = reason
    if "count" in body:
        made["count"] = body["count"]
    if "rpc" in body:
        made["api"] = {"operation": body["rpc"], "request": {"uid": body["response_id"]}}
    actor = body.get("actor")
    if actor is not None:
        made["actor"] = {
            "user": {"uid": actor["account"] or actor["subject"], "uid_alt": actor["subject"]},
            "session": {"uid": actor["token_id"], "issuer": actor["issuer"]},
        }
    if "peer" in body:
        made["src_endpoint"] = _endpoint(str(body["peer"]))
    if kind == _FINDING:
        made["finding_info"] = {"uid": body["alert_id"], "title": "A canary was about to leave; its source is stopped"}
    if kind == _DATASTORE:
        made["databucket"] = {"name": "remit", "type_id": _OTHER}
        made["resources"] = [
            {"uid": one["document_id"], "type": "document", "version": one["version"], "namespace": one["source"]}
            for one in body.get("returned", ())
        ]
    return made


def _severity(kind: int, reason: str, *, failed: bool) -> int:
    if kind == _FINDING:
        return _CRITICAL
    if reason in _ALARMING:
        return _MEDIUM
    return _LOW if failed else _INFORMATIONAL


def line(record: Mapping[str, Any], origin: str, version: str) -> str:
    """The event on one line, without its end."""
    return json.dumps(event(record, origin, version), ensure_ascii=False, separators=(",", ":"))


def _class_of(record: Mapping[str, Any]) -> tuple[int, int, int]:
    """Category, class and activity."""
    body = record["body"]
    if body.get("reason") == "UNAUTHENTICATED":
        return 3, _AUTHENTICATION, _LOGON
    match record["class"]:
        case "standing" if body.get("event") == "source stopped":
            return 2, _FINDING, _CREATE
        case "query" | "on_behalf" as kind if kind == "query" or "RetrievalService/" in str(body.get("rpc", "")):
            search = str(body.get("rpc", "")).endswith("/Search")
            return 6, _DATASTORE, _QUERY if search else _READ
        case "control" | "heartbeat" | "ingest":
            return 6, _LIFECYCLE, _LIFECYCLE_ACTIVITIES.get(str(body.get("event", "")), _OTHER)
        case _:
            return 6, _API, _OTHER


def _endpoint(peer: str) -> dict[str, object]:
    """`ipv4:10.0.0.7:51234` and `ipv6:[::1]:51234` as OCSF has them."""
    address, _, port = peer.partition(":")[2].rpartition(":")
    if port.isdecimal() and address:
        return {"ip": address.strip("[]"), "port": int(port)}
    return {"name": peer}
