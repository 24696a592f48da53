"""A report as a page for people: one file without scripts, fonts or anything else that is fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, Final

_TITLES: Final = {
    "passed": "Everything that was checked held",
    "failed": "Something did not hold",
    "not_run": "Not everything could be checked",
}
_WORDS: Final = {"passed": "held", "failed": "failed", "not_run": "not run", "left_out": "left out"}
_PARTS: Final = {
    "isolation": ("Isolation", "Live questions with a real token, aimed at both sides."),
    "revocation": ("Revocation", "From the change at the source, or in the directory, until the person is refused."),
    "oracle": ("Oracle", "The service's decisions beside the sources' own answers."),
}
_CLOSED, _OPEN = (238, 241, 246), (23, 122, 94)


def write(report: bytes, body: Mapping[str, Any], key: str) -> str:
    """The page of a signed report. report: its bytes, which the page names by their digest."""
    result = body["result"]
    style = (resources.files("service.prove") / "report.css").read_text("utf-8")
    checks = [check for part in body["parts"] for check in part["checks"]]
    counts = {kind: sum(check["result"] == kind for check in checks) for kind in _WORDS}
    summary = ", ".join(f"{count} {_WORDS[kind]}" for kind, count in counts.items() if count)
    parts = "".join(_part(part) for part in body["parts"])
    matrix = _matrix(body["matrix"], body["person"]) if "matrix" in body else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Remit: {escape(body["proof"])} '
        f'{_WORDS[result]}</title><meta name="viewport" content="width=device-width"><style>{style}</style>'
        "</head><body>"
        f'<main><header class="{result}"><div class="kind">Remit prove · {escape(body["proof"])}</div>'
        f"<h1>{_TITLES[result]}</h1><p>{len(checks)} checks: {summary}. As <strong>{escape(body['person'])}</strong>, "
        f"{escape(_time(body['began']))} to {escape(_time(body['ended']))}.</p></header>{matrix}{parts}"
        f"{_origin(report, body, key)}<footer>Made by <code>remit prove</code>, version {escape(body['version'])}. "
        "This page is a picture of the signed report; what counts is the report.</footer></main></body></html>\n"
    )


def _time(text: str) -> str:
    return text[:19].replace("T", " ") + " UTC"


def _part(part: Mapping[str, Any]) -> str:
    title, note = _PARTS.get(part["proof"], (part["proof"], ""))
    checks = "".join(
        f'<li class="{check["result"]}"><span class="badge">{_WORDS[check["result"]]}</span><div>'
        f'{escape(check["claim"])}<div class="detail">{escape(check["detail"])}</div></div></li>'
        for check in part["checks"]
    )
    tables = part["tables"]
    extra = _ways(tables["ways"]) if "ways" in tables else ""
    if "explanations" in tables:
        extra += f"<h3>Why, clause by clause</h3>{_table(tables['explanations'])}"
    if "people" in tables:
        extra += f"<h3>By person</h3>{_table(tables['people'])}"
    if "searches" in tables:
        rows = tables["searches"]
        extra += (
            f"<details><summary>All {len(rows)} searches with their audit records</summary>{_table(rows)}</details>"
        )
    return (
        f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p>'
        f'<ul class="checks">{checks}</ul>{extra}</section>'
    )


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = "".join(
        f"<tr{' class=leak' if row.get('leaks') or row.get('wider') else ''}>"
        + "".join(f"<td>{_cell(row.get(name), code=name in {'audit', 'principal'})}</td>" for name in names)
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(value: object, *, code: bool) -> str:
    shown = "yes" if value is True else "no" if value is False else escape(str(value))
    return f"<code>{shown}</code>" if code and shown else shown


def _matrix(matrix: Mapping[str, Any], subject: str) -> str:
    areas = matrix["areas"]
    several = len({area["source"] for area in areas}) > 1
    head = "".join(
        f'<th class="area">{escape(area["source"] + ": " if several else "")}{escape(area["folder"])}</th>'
        for area in areas
    )
    rows = "".join(
        f'<tr class="{"subject" if row["person"] == subject else ""}"><th class="person" scope="row">'
        f"{escape(row['name'] or row['person'])}</th>"
        + "".join(_share(c, a) for c, a in zip(row["counts"], areas, strict=True))
        + "</tr>"
        for row in matrix["people"]
    )
    if not rows:
        return ""
    more = f" {matrix['more_people']} more people are not shown." if matrix.get("more_people") else ""
    key = "".join(
        f'<span><span class="cell" style="{_colour(share)}"></span>{word}</span>'
        for share, word in ((0.0, "nothing"), (0.5, "a part"), (1.0, "everything"))
    )
    return (
        '<section><h2>People and what they may read</h2><p class="note">Documents of each folder that each person may '
        f"read, as the service decides now.{more}</p>"
        f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<div class="key">{key}</div></section>'
    )


def _share(count: int, area: Mapping[str, Any]) -> str:
    total = area["documents"]
    share = count / total if total else 0.0
    title = f"{count} of {total} in {area['folder']}"
    shown = "" if not count else str(count) if count < total else "all"
    return f'<td><div class="cell" style="{_colour(share)}" title="{escape(title)}">{shown}</div></td>'


def _colour(share: float) -> str:
    # A part stands out from nothing at once, and from everything still.
    at = 0.0 if share == 0 else 0.3 + 0.5 * share if share < 1 else 1.0
    red, green, blue = (round(a + (b - a) * at) for a, b in zip(_CLOSED, _OPEN, strict=True))
    return f"background:rgb({red},{green},{blue});color:{'#fff' if at > 0.5 else '#1d2430'}"


def _ways(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each round as a dot on one scale, with the median."""
    longest = max((time for row in rows for time in row.get("times_s", ())), default=0.0) * 1.08 or 1.0
    height, left, width = 34, 330, 560
    lines: list[str] = []
    for number, row in enumerate(rows):
        y = 22 + number * height
        lines.append(f'<text x="0" y="{y + 4}" font-size="13" fill="#1d2430">{escape(str(row["way"]))}</text>')
        lines.append(f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#e3e7ee"/>')
        for time in row.get("times_s", ()):
            x = left + width * time / longest
            lines.append(f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="#2f6fde" fill-opacity=".55"/>')
        if row.get("p50_s") is not None:
            x = left + width * row["p50_s"] / longest
            lines.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9}" y2="{y + 9}" stroke="#1d2430" stroke-width="2"/>'
            )
            lines.append(
                f'<text x="{left + width + 12}" y="{y + 4}" font-size="12.5" fill="#5d6878">{row["max_s"]:.2f} s</text>'
            )
    bottom = 22 + len(rows) * height
    ticks = "".join(
        f'<text x="{left + width * share:.0f}" y="{bottom + 6}" font-size="11.5" fill="#5d6878" text-anchor="middle">'
        f"{longest * share:.2f} s</text>"
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<h3>Seconds until refused</h3><svg viewBox="0 0 980 {bottom + 14}" width="100%" role="img" '
        f'font-family="inherit">{"".join(lines)}{ticks}</svg>'
        '<p class="detail">A dot is one round, the bar their median, the number on the right the longest.</p>'
    )


def _origin(report: bytes, body: Mapping[str, Any], key: str) -> str:
    there = body["deployment"]
    facts: Iterable[tuple[str, str]] = (
        ("Signed by", key),
        ("Audit log", there["audit_key"]),
        ("Report", f"SHA-256 {hashlib.sha256(report).hexdigest()}"),
    )
    shown = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in facts)
    return (
        '<section><h2>Where this comes from</h2><p class="note">Check the signature, and that the report is about your '
        f"deployment, with <code>remit prove verify report.json</code>.</p><dl>{shown}</dl>"
        "<details><summary>The checkpoint of the audit log after the last call</summary>"
        f"<pre>{escape(there['checkpoint'])}</pre></details></section>"
    )
