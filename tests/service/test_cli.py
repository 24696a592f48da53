"""The command line against a running service, as a person would use it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("REMIT_")}


def remit(
    *args: str, folder: Path, env: dict[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *args],
        cwd=folder,
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | (env or {}),
        capture_output=True,
        input=stdin,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass(frozen=True)
class Running:
    """A service in a folder of its own, synced once."""

    folder: Path

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return remit(*args, folder=self.folder)

    def json(self, *args: str) -> object:
        done = self.run(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


def lay_out(folder: Path) -> None:
    """Settings with a hash embedding, and two files of two people (modes only: a test may not own other ids)."""
    done = remit("init", folder=folder)
    assert done.returncode == 0, done.stderr
    me, mine = os.getuid(), os.getgid()
    people = folder / "people.yaml"
    people.write_text(
        f"""version: 1
id_domain: corp
users:
  - {{id: u-1001, name: alice, display_name: Alice Ahlgren, uid: {me}, gid: {mine}, groups: [operators, key-admins]}}
  - {{id: u-1002, name: bob, display_name: Bob Berg, uid: 20002, gid: 20102}}
  - {{id: u-1003, name: adam, display_name: Adam Audit, groups: [auditors]}}
  - {{id: u-1004, name: carol, display_name: Carol Custodian, groups: [key-admins]}}
groups:
  - {{id: operators}}
  - {{id: auditors}}
  - {{id: key-admins}}
"""
    )
    company = folder / "company"
    company.mkdir()
    (company / "plan.md").write_text("# Plan\n\nThe lighthouse opens in May.\n")
    (company / "news.txt").write_text("The lighthouse has a new lamp.\n")
    company.chmod(0o755)
    (company / "plan.md").chmod(0o600)
    (company / "news.txt").chmod(0o644)
    settings = folder / "remit.yaml"
    text = settings.read_text().split("sources: []")[0]
    text = text.replace("embedding: {kind: model}", "embedding: {kind: hash}")
    text = text.replace("7420", "0").replace("7421", "0")
    settings.write_text(
        text + "sources:\n  - {name: company, kind: filesystem, root: ./company, id_domain: corp,\n"
        "     ancestors_above_root: trust}\n"
    )


@contextmanager
def served(folder: Path, env: dict[str, str] | None = None) -> Iterator[Running]:
    """`remit serve` in `folder`, until the end; the settings name its ports from the first start on."""
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--json"],
            cwd=folder,
            env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | (env or {}),
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, (folder / "log").read_text()
        ports = json.loads(line)
        settings = folder / "remit.yaml"
        text = settings.read_text()
        text = text.replace("callers: 127.0.0.1:0", f"callers: {ports['callers']}")
        settings.write_text(text.replace("administrators: 127.0.0.1:0", f"administrators: {ports['administrators']}"))
        yield Running(folder)
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 0, (folder / "log").read_text()
        if server.stdout is not None:
            server.stdout.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A served and synced folder."""
    folder = tmp_path_factory.mktemp("cli")
    lay_out(folder)
    with served(folder) as found:
        done = found.run("source", "sync", "company", "--as", "alice")
        assert done.returncode == 0, done.stderr + done.stdout
        yield found


def test_two_people_get_two_answers(running: Running) -> None:
    """The private plan is Alice's; the news is everybody's."""
    alice = running.json("search", "lighthouse", "--as", "alice")
    bob = running.json("search", "lighthouse", "--as", "bob")

    assert isinstance(alice, dict)
    assert isinstance(bob, dict)
    assert {hit["chunk"]["document"]["location"] for hit in alice["hits"]} == {"plan.md", "news.txt"}
    assert {hit["chunk"]["document"]["location"] for hit in bob["hits"]} == {"news.txt"}


def test_a_crash_of_the_service_would_write_no_memory(running: Running) -> None:
    """The process that holds the keys writes no core file, whatever the limits of whoever started it."""
    pid = (running.folder / "data" / "lock").read_text().strip()

    limits = Path(f"/proc/{pid}/limits").read_text()

    (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core[4:6] == ["0", "0"]


def test_swap_that_may_be_plain_is_told(tmp_path: Path) -> None:
    """A file, or a device that is not encrypted; none at all, and compressed memory, are well."""
    from service.cli.doctor import _swap

    listed = tmp_path / "swaps"
    listed.write_text("Filename Type Size Used Priority\n/swapfile file 1 0 -2\n/dev/zram0 partition 1 0 100\n")

    assert [(one.level, "/swapfile" in one.advice) for one in _swap(listed)] == [("warning", True)]
    listed.write_text("Filename Type Size Used Priority\n")
    assert list(_swap(listed)) == []
    assert list(_swap(tmp_path / "none")) == []


def test_search_explains_for_people(running: Running) -> None:
    """`--explain` shows each clause with the principal and the path."""
    done = running.run("search", "lamp", "--as", "bob", "--explain")

    assert done.returncode == 0
    assert "own: posix:corp:other by bob" in done.stdout


def test_whoami_is_quick_and_says_who(running: Running) -> None:
    """`whoami` imports no model: it answers with the caller in a moment, and torch is not loaded by it."""
    done = running.run("whoami", "--as", "bob")
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "service.cli", "whoami", "--as", "bob"],
        cwd=running.folder,
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "Bob Berg (u-1002)" in done.stdout
    assert "posix:corp:uid-20002" in done.stdout
    assert not any(name in imported.stderr for name in ("torch", "sqlalchemy", "qdrant_edge", "kreuzberg", "numpy"))


def test_the_commands_are_known_without_grpc() -> None:
    """gRPC, which reads the versions of TLS when it is imported, is imported by the commands that speak it."""
    program = "import sys, service.cli.root; sys.exit(any(name in sys.modules for name in ('grpc', 'remit.client')))"

    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)})

    assert done.returncode == 0


def test_audit_shows_and_verifies(running: Running) -> None:
    """The record of an answer names its passages, and the log as a whole verifies."""
    answer = running.json("search", "lamp", "--as", "bob")
    assert isinstance(answer, dict)

    shown = running.json("audit", "show", answer["response_id"], "--as", "adam")
    copied = running.json("audit", "show", answer["response_id"], "--folder", "data/audit")
    verified = running.json("audit", "verify", "--as", "adam")
    offline = running.json("audit", "verify", "--folder", "data/audit")

    assert isinstance(shown, dict)
    assert isinstance(verified, dict)
    assert isinstance(offline, dict)
    returned = shown["record"]["body"]["returned"]
    assert [one["chunk_id"] for one in returned] == [hit["chunk"]["chunk_id"] for hit in answer["hits"]]
    assert copied == shown
    assert verified["ok"] is offline["ok"] is True
    text = running.run("audit", "show", answer["response_id"], "--as", "adam").stdout
    assert all(one["chunk_id"] in text and one["content_sha256"] in text for one in returned)
    assert "allowed by ACL" in text


def test_an_auditor_asks_who_saw_and_what_somebody_did(running: Running) -> None:
    """Answers by document and by person, with the reading itself on record; times narrow, and are checked."""
    answer = running.json("search", "lamp", "--as", "bob")
    assert isinstance(answer, dict)
    document = answer["hits"][0]["chunk"]["document"]["document_id"]

    saw = running.json("audit", "who-saw", document, "--as", "adam")
    before = running.json("audit", "who-saw", document, "--to", "2020-01-01", "--as", "adam")
    did = running.json("audit", "what-did", "u-1002", "--limit", "1", "--as", "adam")
    reading = running.json("audit", "list", "--class", "audit", "--limit", "3", "--as", "adam")

    assert isinstance(saw, dict)
    assert saw["records"][0]["record"]["body"]["response_id"] == answer["response_id"]
    assert before == {"records": [], "more": False}
    assert isinstance(did, dict)
    assert did["records"][0]["record"]["body"]["actor"]["account"] == "u-1002"
    assert isinstance(reading, dict)
    bodies = [one["record"]["body"] for one in reading["records"]]
    assert bodies[0]["conditions"] == {"person": "u-1002"}
    assert {body["actor"]["account"] for body in bodies} == {"u-1003"}
    assert "RetrievalService/Search" in running.run("audit", "list", "--as", "adam").stdout


def test_an_export_is_verified_without_remit(running: Running, tmp_path: Path) -> None:
    """An export with a kept checkpoint passes the one-file verifier; nothing is overwritten."""
    kept = tmp_path / "kept"
    kept.write_text(running.run("audit", "checkpoint", "--as", "adam").stdout)
    done = running.run("audit", "export", str(tmp_path / "export"), "--as", "adam")
    again = running.run("audit", "export", str(tmp_path / "export"), "--as", "adam")

    program = Path(__file__).parents[2] / "service" / "audit" / "remit_audit_verify.py"
    alone = tmp_path / "verify.py"
    alone.write_bytes(program.read_bytes())
    key = running.folder / "keys" / "audit.pub"
    checked = subprocess.run(
        [sys.executable, "-I", alone, tmp_path / "export", "--key", key, "--seen", kept, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert (again.returncode, "overwrites nothing" in again.stderr) == (2, True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    found = json.loads(checked.stdout)
    assert (found["ok"], found["key_from_the_export_itself"]) == (True, False)
    assert len(found["kept_checkpoints_that_fit"]) == 1
    assert running.run("audit", "verify", "--seen", str(kept), "--as", "adam").returncode == 0


def test_a_witness_looks_and_cosigns(running: Running, tmp_path: Path) -> None:
    """Two looks at a log that grew; what was seen serves auditors; without the role there is nothing to see."""
    key, state = str(tmp_path / "witness.key"), tmp_path / "state"
    assert running.run("witness", "init", "witness.example/remit", "--key", key).returncode == 0
    look = ["witness", "run", "--once", "--key", key, "--log-key", "keys/audit.pub", "--state", str(state)]

    first = running.json(*look, "--as", "adam")
    assert running.run("audit", "verify", "--as", "adam").returncode == 0  # signs what there is
    second = running.json(*look, "--as", "adam")
    kept = running.run("audit", "verify", "--seen", str(state / "checkpoint"), "--as", "adam")
    again = running.run("witness", "init", "witness.example/remit", "--key", key)

    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert second["size"] > first["size"] > 0
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert (again.returncode, "never overwritten" in again.stderr) == (2, True)
    assert running.run(*look, "--as", "bob").returncode == 1


def test_tail_prints_what_is_written_from_now_on(running: Running) -> None:
    """A search that is made while a tail runs comes out of it."""
    tail = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "audit", "tail", "--class", "query", "--as", "adam", "--json"],
        cwd=running.folder,
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        opened = False
        while not opened:
            listed = running.json("audit", "list", "--class", "audit", "--limit", "5", "--as", "adam")
            assert isinstance(listed, dict)
            bodies = [one["record"]["body"] for one in listed["records"]]
            opened = any(body.get("conditions", {}).get("follow") == "true" for body in bodies)
        answer = running.json("search", "lamp", "--as", "bob")
        assert isinstance(answer, dict)
        assert tail.stdout is not None
        line = json.loads(tail.stdout.readline())
    finally:
        tail.terminate()
        tail.communicate(timeout=30)

    assert line["record"]["body"]["response_id"] == answer["response_id"]


def test_sources_are_listed_checked_and_watched(running: Running) -> None:
    """An operator sees the source, checks it, and follows a run to its end."""
    sources = running.json("source", "list", "--as", "alice")
    assert isinstance(sources, list)
    (source,) = sources
    check = running.json("source", "check", "company", "--as", "alice")
    run = running.json("source", "sync", "company", "--no-wait", "--as", "alice")
    assert isinstance(run, dict)
    end = running.json("source", "watch", run["run_id"], "--as", "alice")

    assert (source["documents"], source["quarantined"]) == (2, 0)
    assert isinstance(check, dict)
    assert check["ready"] is True
    assert isinstance(end, dict)
    assert (end["state"], end["counts"]["unchanged"], end["counts"]["stored"]) == ("succeeded", 2, 0)
    cancelled = running.json("source", "cancel", run["run_id"], "--as", "alice")
    assert cancelled == end, "it had ended: nothing happens to it"
    listed = running.run("source", "runs", "company", "--as", "alice", "--json").stdout.splitlines()
    shown = running.run("source", "runs", "company", "--as", "alice", "--limit", "1").stdout
    assert json.loads(listed[0]) == end
    assert run["run_id"] in shown
    assert len(shown.splitlines()) == 2


def test_doctor_finds_everything_in_order(running: Running) -> None:
    """On a running service nothing is an error."""
    results = running.json("doctor")

    assert isinstance(results, list)
    assert {one["level"] for one in results} <= {"ok", "warning"}
    assert any(one["what"].startswith("listener") for one in results)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["search", "", "--as", "bob"], 2, "`query`"),
        (["search", "x", "--limit", "-1", "--as", "bob"], 2, "`limit`"),
        (["search", "x", "--limit", "10000", "--as", "bob"], 2, "`limit`"),
        (["search", "x"], 2, "who is asking?"),
        (["search", "x", "--as", "mallory"], 2, "`mallory`"),
        (["search", "x", "--token", "forged"], 1, "the token is missing, expired or not for this service"),
        (["source", "list", "--as", "bob"], 1, "role `operator`"),
        (["source", "sync", "nowhere", "--as", "alice"], 1, "does not exist"),
        (["source", "watch", "nothing", "--as", "alice"], 1, "does not exist"),
        (["source", "cancel", "nothing", "--as", "alice"], 1, "does not exist"),
        (["source", "runs", "nowhere", "--as", "alice"], 1, "does not exist"),
        (["source", "runs", "company", "--as", "bob"], 1, "role `operator`"),
        (["audit", "show", "nothing", "--as", "adam"], 2, "no record"),
        (["audit", "show", "nothing", "--folder", "data/audit"], 2, "no record"),
        (["audit", "show", "nothing", "--as", "bob"], 1, "role `auditor`"),
        (["audit", "query-text", "nothing", "--as", "adam"], 1, "role `audit-reader-content`"),
        (["audit", "list", "--from", "soon", "--as", "adam"], 2, "`--from soon` is not a time"),
        (["audit", "list", "--class", "secret", "--as", "adam"], 2, "`secret` is no class of records"),
        (["audit", "verify", "--folder", "nowhere"], 2, "not a folder with an audit log"),
        (["audit", "verify", "--seen", "people.yaml", "--as", "adam"], 2, "not a checkpoint of"),
        (["witness", "init", "a name"], 2, "no name of a witness"),
        (["witness", "run", "--once", "--log-key", "people.yaml", "--state", "s"], 2, "not the public key"),
        (["witness", "run", "--once", "--log-key", "nothing", "--state", "s"], 2, "cannot be read"),
        (["audit", "export", "/proc/nowhere", "--as", "adam"], 2, "cannot be made"),
        (["audit", "export", "out", "--as", "bob"], 1, "role `auditor`"),
        (["keys", "status", "--as", "bob"], 1, "role `key-admin`"),
        (["keys", "shred", "--yes", "--as", "alice"], 2, "name either a document by its id or a source"),
        (["keys", "shred", "nothing", "--yes", "--as", "alice"], 1, "does not exist"),
        (["keys", "rewrap", "--batch", "0", "--as", "alice"], 2, "`limit`"),
        (["backup", "company", "--keys", "other", "--as", "alice"], 2, "where nothing is yet"),
        (["backup", "new", "--keys", "other", "--as", "bob"], 1, "role `key-admin`"),
        (["restore", "company", "--keys", "company"], 2, "is no whole backup"),
        (["--config", "other.yaml", "whoami"], 2, "other.yaml does not exist: `remit init` writes one"),
        (["init"], 2, "overwrites nothing"),
        (["token", "alice", "--minutes", "600"], 2, "expected 1 to 60"),
        (["serve"], 2, "already open by process"),
    ],
)
def test_mistakes_get_one_sentence(running: Running, args: list[str], code: int, says: str) -> None:
    """Each mistake ends with its exit code and one sentence, never with a traceback."""
    done = running.run(*args)

    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_settings_mistake_names_its_line(tmp_path: Path) -> None:
    """A malformed remit.yaml: the line, the key, what was expected; exit 2."""
    lay_out(tmp_path)
    settings = tmp_path / "remit.yaml"
    lines = settings.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.startswith("  callers:"))
    lines[number - 1] = "  callers: everywhere"
    settings.write_text("\n".join(lines))

    done = remit("serve", folder=tmp_path)

    assert done.returncode == 2
    assert f"remit.yaml:{number}: listen.callers: expected host:port, found `everywhere`" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_named_and_nothing_stays_locked(running: Running, tmp_path: Path) -> None:
    """A second service on the same port says which; its data folder can be opened again at once."""
    lay_out(tmp_path)
    taken = next(
        line.split()[1] for line in (running.folder / "remit.yaml").read_text().splitlines() if "callers:" in line
    )
    settings = tmp_path / "remit.yaml"
    free = settings.read_text()
    settings.write_text(free.replace("callers: 127.0.0.1:0", f"callers: {taken}"))

    refused = remit("serve", folder=tmp_path)
    settings.write_text(free)
    began = time.monotonic()
    server = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--json"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline()
    finally:
        server.terminate()
        server.communicate(timeout=30)

    assert refused.returncode == 2
    assert f"port {taken.rpartition(':')[2]} is in use" in refused.stderr
    assert time.monotonic() - began < 60


def test_a_model_path_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    """A wrong model path ends before anything is written into the data folder's catalog."""
    lay_out(tmp_path)
    settings = tmp_path / "remit.yaml"
    settings.write_text(settings.read_text().replace("{kind: hash}", "{kind: model, path: ./nothing}"))

    done = remit("serve", folder=tmp_path)

    assert done.returncode == 2
    assert "model" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_an_issuer_that_cannot_be_reached_stops_the_start_with_its_line(tmp_path: Path) -> None:
    """File, line, key, address and why, exit code 2; `remit doctor` says the same and goes on."""
    lay_out(tmp_path)
    settings = tmp_path / "remit.yaml"
    settings.write_text(settings.read_text().replace("jwks: ./keys/dev.jwks.json", "jwks: https://127.0.0.1:1/keys", 1))
    line = next(n for n, text in enumerate(settings.read_text().splitlines(), 1) if "- issuer:" in text)

    done = remit("serve", folder=tmp_path)
    checked = remit("doctor", "--json", folder=tmp_path)

    sentence = f"remit.yaml:{line}: issuers[0]: the keys of the issuer cannot be fetched: `https://127.0.0.1:1/keys`"
    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert checked.returncode == 1
    assert sentence in checked.stdout


def test_the_index_is_made_anew_from_the_catalog(running: Running, tmp_path: Path) -> None:
    """`remit index rebuild` brings every passage back without a model, here on a copy that no server has."""
    shutil.copytree(running.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("lock", "index"))

    done = remit("index", "rebuild", folder=tmp_path / "copy")

    assert done.returncode == 0, done.stderr
    assert done.stdout == "the index holds 2 passages\n"
    again = remit("index", "rebuild", "--json", folder=tmp_path / "copy")
    assert json.loads(again.stdout) == {"passages": 2}
    empty = remit("init", "empty", folder=tmp_path)
    assert empty.returncode == 0
    nothing = remit("index", "rebuild", folder=tmp_path / "empty")
    assert (nothing.returncode, "holds nothing yet" in nothing.stderr) == (2, True)


def test_a_running_service_makes_its_index_anew_beside_it(running: Running) -> None:
    """An operator asks, the generations change places, and answers are what they were; nobody else may ask."""
    before = running.json("search", "lighthouse", "--as", "alice")
    served = {name: (running.folder / "data" / name / "current").exists() for name in ("index", "keywords")}

    refused = running.run("index", "rebuild", "--as", "bob")
    done = running.json("index", "rebuild", "--as", "alice")

    after = running.json("search", "lighthouse", "--as", "alice")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert done == {"passages": 2}
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert after["hits"] == before["hits"]
    assert served == {"index": False, "keywords": False}
    for name in served:
        folder = running.folder / "data" / name
        assert {entry.name for entry in folder.iterdir()} == {"current", "g2"}
