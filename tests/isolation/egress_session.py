"""A whole life of a deployment with loopback alone: every command of `remit` but one, in the folder it is started in.

Run by `test_egress`, under strace. The commands run in one process, but for `serve`; it ends with one line of JSON that
says how each of them ended.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from service.cli import main
from service.cli.root import app
from tests.service.test_cli import lay_out

ENDED: dict[str, list[int | str]] = {}


def run(*args: str, stdin: str = "", after_s: int = 0) -> str:
    """Run one command; return what it printed. after_s: interrupt it then, as somebody at a terminal would."""
    # Some commands write bytes.
    out, errors = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    before = (sys.argv, sys.stdin)
    sys.argv, sys.stdin = ["remit", *args], io.StringIO(stdin)
    code: int | str = 0
    if after_s:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(after_s)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        signal.alarm(0)
        sys.argv, sys.stdin = before
    name = next(name for name in sorted(commands(), key=len, reverse=True) if " ".join(args).startswith(name))
    ENDED.setdefault(name, []).append(code if not code or code == 130 else f"{code}: {printed(errors)[-300:]}")
    return printed(out)


def printed(written: io.TextIOWrapper) -> str:
    """What was printed."""
    buffer = written.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def commands() -> set[str]:
    """Every command there is, by name."""
    import typer

    def walk(one: object, path: tuple[str, ...]) -> Iterator[str]:
        below = getattr(one, "commands", None)
        if not below:
            yield " ".join(path)
        for name, child in (below or {}).items():
            yield from walk(child, (*path, name))

    return set(walk(typer.main.get_command(app), ()))


def value(text: str, *keys: str | int) -> str:
    """One value of the JSON that a command printed last."""
    found = json.loads(text.strip().splitlines()[-1])
    for key in keys:
        found = found[key]
    return str(found)


@contextlib.contextmanager
def served() -> Iterator[None]:
    """`remit serve`, in a process of its own."""
    with Path("log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--json"], stdout=subprocess.PIPE, stderr=log
        )
    assert server.stdout is not None
    assert server.stdout.readline(), Path("log").read_text()
    try:
        yield
    finally:
        server.terminate()
        ENDED.setdefault("serve", []).append(server.wait(60))
        server.stdout.close()


def live() -> None:
    """What a deployment sees from its first day to its restore."""
    run("init", "elsewhere")
    lay_out(Path())
    settings = Path("remit.yaml")
    # The real model, whose libraries would like to look for newer ones; and one peer that the settings name.
    text = settings.read_text().replace("embedding: {kind: hash}", "embedding: {kind: model}")
    text = re.sub(r"^(  auditor: .*)$", r"\1\n  audit-reader-content: [group:auditors]", text, flags=re.M)
    # The namespace is empty: no port is taken.
    text = text.replace("callers: 127.0.0.1:0", "callers: 127.0.0.1:7420")
    text = text.replace("administrators: 127.0.0.1:0", "administrators: 127.0.0.1:7421")
    settings.write_text(text + f"audit: {{exports: [{{syslog: '{os.environ['NAMED_PEER']}', ca: ./ca.pem}}]}}\n")
    for area, text in (("open", "The canal opens in June."), ("closed", "The canal is closed to boats.")):
        Path("company", area).mkdir()
        Path("company", area, f"{area}.md").write_text(text)
    Path("company/closed").chmod(0o700)
    run("config", "check")
    run("doctor")
    run("directory", "check")
    run("token", "alice")
    run("keys", "create")
    run("keys", "seal-secret", "one.sealed", stdin="a secret")
    with served():
        used()
    run("index", "rebuild")
    run("index", "calibrate", "--chunks", "10000", "--dimension", "8")
    Path("data").rename("lost-data")
    Path("keystore").rename("lost-keystore")
    run("restore", "backups/content", "--keys", "backups/keys")
    with served():
        run("search", "lighthouse", "--as", "bob")
        run("index", "rebuild", "--as", "alice")
        run("source", "remove", "company", "--yes", "--wait", "--as", "alice")


def used() -> None:
    """Everything that asks the running service."""
    run("whoami", "--as", "alice")
    run("directory", "resolve", "alice", "--as", "adam")
    run("source", "check", "company", "--as", "alice")
    run_id = value(run("source", "sync", "company", "--as", "alice", "--json"), "run_id")
    run("source", "list", "--as", "alice")
    run("source", "runs", "company", "--as", "alice")
    run("source", "watch", run_id, "--as", "alice")
    run("source", "cancel", run_id, "--as", "alice")
    run("source", "holds", "--as", "alice")
    run("source", "approve", "none", "--as", "alice")
    run("source", "reject", "none", "--as", "alice")
    run("config", "reload", "--as", "alice")
    for mode in ("hybrid", "dense", "keyword"):
        found = run("search", "lighthouse", "--as", "alice", "--mode", mode, "--json")
    response, document = value(found, "response_id"), value(found, "hits", 0, "chunk", "document", "document_id")
    run("access", "explain", "alice", document, "--as", "adam")
    run("access", "who", document, "--as", "adam")
    run("access", "documents", "alice", "--as", "adam")
    run("access", "review", "--as", "adam")
    run("access", "diff", "--user", "alice", "--leaves", "operators", "--as", "adam")
    run("audit", "show", response, "--as", "adam")
    run("audit", "query-text", response, "--as", "adam")
    run("audit", "list", "--as", "adam")
    run("audit", "who-saw", document, "--as", "adam")
    run("audit", "what-did", "u-1001", "--as", "adam")
    run("audit", "tail", "--as", "adam", after_s=1)
    run("audit", "verify", "--as", "adam")
    run("audit", "checkpoint", "--as", "adam")
    run("audit", "export", "exported", "--as", "adam")
    hold = value(run("audit", "hold", "add", "--why", "a test", "--as", "alice", "--json"), "hold_id")
    run("audit", "hold", "list", "--as", "alice")
    run("audit", "hold", "lift", hold, "--why", "the test ended", "--as", "alice")
    run("canary", "list", "--as", "alice")
    run("canary", "clear", "company", "--why", "a test", "--as", "alice")
    by = ("--as", "bob", "--auditor", "adam", "--operator", "alice")
    areas = ("--allow", "open", "--deny", "closed", "--witness", "alice")
    short = ("--rounds", "1", "--within", "1")
    run("prove", "isolation", *areas, *by, "--out", "proof")
    # It waits for what it measures, which `all` does once for both.
    run("prove", "revocation", "--allow", "nowhere", *short, *by)
    run("prove", "oracle", "--pairs", "10", *by)
    run("prove", "all", *areas, *short, "--pairs", "10", *by)
    run("prove", "verify", "proof/report.json")
    run("witness", "init", "witness.example.com/remit")
    watching = ("--log-key", "keys/audit.pub", "--state", "witness", "--once", "--as", "adam")
    run("witness", "run", *watching)
    run("keys", "status", "--as", "alice")
    run("keys", "rotate", "--as", "alice")
    run("keys", "rewrap", "--as", "alice")
    Path("backups").mkdir(mode=0o755)
    run("backup", "backups/content", "--keys", "backups/keys", "--as", "alice")
    run("keys", "requests", "--as", "carol")
    asked = [value(run("keys", "shred", document, "--yes", "--as", "alice", "--json"), "request_id") for _ in "ab"]
    run("keys", "withdraw", asked[0], "--as", "carol")
    run("keys", "approve", asked[1], document, "--yes", "--as", "carol")


if __name__ == "__main__":
    live()
    print(json.dumps({"ended": ENDED, "all": sorted(commands())}))
