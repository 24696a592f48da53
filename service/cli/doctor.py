"""`remit doctor`: everything that can be checked without changing anything, each with what to do about it."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import typer
from rich.markup import escape

from service.cli.connect import Context, Json, context
from service.cli.screen import out, print_json
from service.devissuer import private_key_path
from service.errors import RemitError, StartError
from service.files import lock_file
from service.settings import Address, Settings

_FREE_BYTES: Final = 2 * 2**30
_ENDS_SOON: Final = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Result:
    """One check. advice: what to do; empty when all is well."""

    level: Literal["ok", "warning", "error"]
    what: str
    advice: str = ""


def doctor(ctx: typer.Context, json: Json = False) -> None:
    """Check settings, keys, folders, model, sources and the running service. Exit code 1 when something is wrong."""
    results = list(_results(context(ctx)))
    if json:
        print_json(results)
    else:
        show(results)
    if any(one.level == "error" for one in results):
        raise typer.Exit(1)


def show(results: Iterable[Result]) -> None:
    """Print a line for each."""
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for one in results:
        advice = f": {one.advice}" if one.advice else ""
        out.print(f"[{colours[one.level]}]{one.level:8}[/]{escape(one.what)}{escape(advice)}")


def _results(found: Context) -> Iterator[Result]:
    from service.sections import secret_options

    settings = found.settings
    yield Result("ok", f"settings: {settings.file}")
    yield from _keys(settings)
    yield from _data(settings)
    yield from _model(settings)
    yield from tls_results(settings)
    yield from issuer_results(settings)
    try:
        with_secrets = secret_options.bound(settings)
    except StartError as err:
        yield Result("error", "secrets", str(err))
    else:
        yield from _sealed(with_secrets)
        yield from directory_results(with_secrets)
        yield from source_results(with_secrets)
    yield from _qdrant(settings)
    yield from _listeners(settings)


def _keys(settings: Settings) -> Iterator[Result]:
    from service.audit import AuditKey
    from service.keys import open_provider
    from service.sections.keys import FileProvider

    for what, opened in (
        ("key-encryption key", lambda: open_provider(settings.keys).close()),
        ("audit key", lambda: AuditKey.load(settings.keys.audit)),
    ):
        try:
            opened()
            yield Result("ok", what)
        except RemitError as err:
            yield Result("error", what, str(err))
    held = settings.keys.provider
    if isinstance(held, FileProvider) and held.path.is_relative_to(settings.data):
        yield Result("error", "keys", f"{held.path} lies in the data folder that it protects: move it out")


def _sealed(settings: Settings) -> Iterator[Result]:
    from connectors.secret import SecretError
    from service.keys import open_provider
    from service.keys.sealed import read_blob
    from service.sections.secret_options import sealed

    found = list(sealed(settings))
    if not found:
        return
    try:
        provider = open_provider(settings.keys)
    except StartError:
        return  # said above
    for place, path in found:
        try:
            if read_blob(path).kek != provider.key_id:
                advice = f"it is under an older key: `remit keys seal-secret {path} --again`"
                yield Result("warning", f"secret `{place}`", advice)
        except SecretError as err:
            yield Result("error", f"secret `{place}`", str(err))
    provider.close()


def _data(settings: Settings) -> Iterator[Result]:
    data = settings.data
    here = next(folder for folder in (data, *data.parents) if folder.exists())
    free = shutil.disk_usage(here).free
    if free < _FREE_BYTES:
        yield Result("warning", "disk", f"only {free / 2**30:.1f} GiB are free for {data}")
    if not os.access(here, os.W_OK):
        yield Result("error", "data folder", f"{here} is not writable for this account")
    if data.exists() and data.stat().st_mode & 0o077:
        yield Result("error", "data folder", f"{data} is open to others: `chmod 700 {data}`")
    yield _encrypted(here)
    yield from _swap(Path("/proc/swaps"))


def _swap(listed: Path) -> Iterator[Result]:
    """Keys and passages are in memory while they are used: swap that is not encrypted would keep them on the disk."""
    try:
        places = [line.split()[0] for line in listed.read_text().splitlines()[1:] if line.strip()]
    except OSError:
        return
    for place in places:
        chain = _output("lsblk", "--noheadings", "--inverse", "--output", "TYPE", place).split()
        if "crypt" not in chain and not place.startswith("/dev/zram"):
            yield Result("warning", "swap", f"nothing says that {place} is encrypted: `swapoff {place}`, or encrypt it")


def _encrypted(folder: Path) -> Result:
    what = "encrypted volume"
    source = _output("findmnt", "--noheadings", "--output", "SOURCE", "--target", str(folder)).split("[")[0].strip()
    chain = _output("lsblk", "--noheadings", "--inverse", "--output", "TYPE", source) if source.startswith("/") else ""
    if "crypt" in chain.split():
        return Result("ok", what)
    why = f"nothing says that {folder} ({source or 'unknown volume'}) is encrypted"
    return Result("warning", what, f"{why}; vectors lie there in the clear and are as sensitive as the text")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _model(settings: Settings) -> Iterator[Result]:
    from service.embed.embedder import passage_tokens, tokenizer_path

    if settings.embedding.kind == "hash":
        yield Result("warning", "model", "`embedding: {kind: hash}` finds words, not meaning: it is for tests")
        return
    try:
        tokenizer_path(settings.embedding)
        yield Result("ok", f"model, passages of {passage_tokens(settings.embedding)} tokens")
    except StartError as err:
        yield Result("error", "model", str(err))


def issuer_results(settings: Settings) -> Iterator[Result]:
    """Fetch or read the keys of every issuer."""
    import asyncio

    from service.authn import Authenticator
    from service.sections.issuers import KeyFile

    for one in settings.issuers:
        what = f"issuer `{one.issuer}`"
        try:
            asyncio.run(Authenticator([one]).open())
        except StartError as err:
            yield Result("error", what, str(err))
            continue
        yield Result("ok", f"{what}, {'keys from a file' if isinstance(one.keys, KeyFile) else 'keys are published'}")
        if isinstance(one.keys, KeyFile) and private_key_path(one.keys.path).exists():
            yield Result("warning", what, "whoever has its private key can be anybody: it is for trying Remit")


def directory_results(settings: Settings) -> Iterator[Result]:
    """Ask every directory."""
    from connectors.directories.base import DirectoryUnavailableError, UnknownSubjectError, Watched
    from service.identity import directories

    for one in settings.directories:
        what = f"directory `{one.name}`"
        try:
            directory = directories.build(one, settings.base)
            if not isinstance(directory, Watched):
                directory.resolve("id", "\N{REPLACEMENT CHARACTER}")
                continue
            for finding in directory.check():
                yield Result(
                    "ok" if finding.good else "warning",
                    f"{what}: {finding.what}",
                    "" if finding.good else finding.detail,
                )
            directory.close()
        except UnknownSubjectError:
            yield Result("ok", what)
        except StartError as err:
            yield Result("error", what, str(err))
        except DirectoryUnavailableError as err:
            yield Result("error", what, err.detail)


def source_results(settings: Settings) -> Iterator[Result]:
    """Connect to every source."""
    from connectors import registry
    from connectors.base import Level
    from connectors.errors import ConnectorError

    if not settings.sources:
        yield Result("warning", "sources", "none is configured, so there is nothing to search")
    for one in settings.sources:
        try:
            connector = registry.build(one.kind, one.options, settings.base, one.name)
        except registry.OptionError as err:
            yield Result("error", f"source `{one.name}`", f"{one.place(err.option)}: {err}")
            continue
        try:
            for finding in connector.check():
                level: Literal["ok", "warning", "error"] = "ok"
                if finding.level is not Level.INFO:
                    level = "warning" if finding.level is Level.WARNING else "error"
                yield Result(level, f"source `{one.name}`: {finding.text}")
        except ConnectorError as err:
            yield Result("error", f"source `{one.name}`", err.detail)
        finally:
            connector.close()


def _qdrant(settings: Settings) -> Iterator[Result]:
    if settings.qdrant is None:
        return
    try:
        from service.index.qdrant_check import findings
    except ImportError:
        yield Result("error", "Qdrant server", "qdrant-client is not installed: `pip install 'remit-server[qdrant]'`")
        return
    for one in findings(settings.qdrant):
        yield Result(one.level, one.what, one.advice)


def _listeners(settings: Settings) -> Iterator[Result]:
    if not lock_file.is_held(settings.data / "lock"):
        yield Result("warning", "service", "it is not running: `remit serve`")
        return
    if settings.listen.tls is not None:
        from service.api import tls

        try:
            chain = tls.load(settings.listen.tls, datetime.now(UTC)).chain
        except StartError:
            return  # said above
        for address in (settings.listen.callers, settings.listen.administrators):
            yield _handshake(address, chain)
        return
    from grpc import RpcError, insecure_channel
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    for address in (settings.listen.callers, settings.listen.administrators):
        with insecure_channel(str(address), [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status
            except RpcError:
                yield Result("error", f"listener {address}", "it does not answer, though the data folder is open")
                continue
        if status == health_pb2.HealthCheckResponse.SERVING:
            yield Result("ok", f"listener {address}")
        else:
            yield Result("error", f"listener {address}", "NOT_SERVING: the service's log says why")
    yield from _asked_by_service(settings)


def _asked_by_service(settings: Settings) -> Iterator[Result]:
    """Whether the running service gets answers from its directories, which another account or network may not."""
    from grpc import RpcError, insecure_channel
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from service.condition import DIRECTORY

    with insecure_channel(str(settings.listen.administrators), [("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for one in settings.directories:
            try:
                request = health_pb2.HealthCheckRequest(service=f"{DIRECTORY}{one.name}")
                status = stub.Check(request, timeout=5).status
            except RpcError:
                continue  # said above, or the service was started before this directory was in the settings
            if status != health_pb2.HealthCheckResponse.SERVING:
                why = "what names its realm is withheld; its log says `directory_unavailable` with the reason"
                yield Result("error", f"directory `{one.name}` does not answer the running service", why)


def _handshake(address: Address, chain: bytes) -> Result:
    """Connect as a client would, without judging the certificate: is it the one of the file, and is TLS 1.3 spoken?"""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    what = f"listener {address}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    try:
        with (
            socket.create_connection((host, address.port), 5) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            version, served = connection.version(), connection.getpeercert(binary_form=True)
    except OSError as err:
        return Result("error", what, f"no TLS connection: {(err.strerror or str(err)).lower()}")
    if version != "TLSv1.3":
        return Result("error", what, f"speaks {version}, expected TLSv1.3: another program listens there")
    if served != x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.DER):
        return Result("error", what, "serves another certificate than that of the settings: the service's log says why")
    return Result("ok", f"{what}, TLS 1.3")


def tls_results(settings: Settings) -> Iterator[Result]:
    """Read the certificate of the listeners."""
    from service.api import tls

    if settings.listen.tls is None:
        yield Result("ok", "listeners: plaintext, on this machine alone (`insecure_loopback`)")
        return
    now = datetime.now(UTC)
    try:
        left = tls.load(settings.listen.tls, now).not_after - now
    except StartError as err:
        yield Result("error", "certificate", str(err))
        return
    ends = f"certificate, valid for {left.days} more days"
    if left < _ENDS_SOON:
        yield Result("warning", ends, "replace its files, the service takes the new ones without a restart")
    else:
        yield Result("ok", ends)
