"""What it costs to find out who is calling: verifying a token by each algorithm, and refusing what does not verify.

Run: `python -m benchmarks.bench_authn`. Writes `authn.json`.
Tokens are those of RFC 9068 with seven claims, about 450 bytes with ES256. The kinds are interleaved: one of each a
round, so that whatever else the machine does falls on all alike; 300 rounds of warm-up are not counted.
`refused_call_*` is a whole call without a valid token over gRPC on the loopback, its durable audit record included;
`accepted_call_*` is GetCaller of the same service with a valid one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from benchmarks.report import Report
from service.authn import Authenticator, TokenRefusedError
from service.sections.issuers import IssuerSettings, KeyFile
from tests.service.harness import Service, serving

SEED = 20261125
ROUNDS = 3000
WARM_UP = 300
CALLS = 400
ISSUER = "https://issuer.example/bench"

Sign = Callable[[dict[str, object]], str]


def _keys(folder: Path) -> tuple[Path, dict[str, Sign]]:
    """A key set with one key of each algorithm, and what signs claims with it."""
    elliptic, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    modulus = rsa.generate_private_key(65537, 2048)
    private: dict[str, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey] = {}
    private |= {"ES256": elliptic, "EdDSA": edwards, "RS256": modulus, "PS256": modulus}
    public = {
        "ES256": ECAlgorithm.to_jwk(elliptic.public_key()),
        "EdDSA": OKPAlgorithm.to_jwk(edwards.public_key()),
        "RS256": RSAAlgorithm.to_jwk(modulus.public_key()),
        "PS256": RSAAlgorithm.to_jwk(modulus.public_key()),
    }
    entries = []
    for algorithm, text in public.items():
        entry = json.loads(text) | {"kid": algorithm, "alg": algorithm, "use": "sig"}
        entry.pop("key_ops", None)
        entries.append(entry)
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": entries}))

    def signer(algorithm: str) -> Sign:
        headers = {"typ": "at+jwt", "kid": algorithm}
        return lambda claims: jwt.encode(claims, private[algorithm], algorithm=algorithm, headers=headers)

    return path, {algorithm: signer(algorithm) for algorithm in private}


def _tokens(sign: dict[str, Sign], now: datetime) -> tuple[dict[str, str], dict[str, str]]:
    """Tokens that verify, by algorithm, and some that do not, by what is wrong with them."""
    claims: dict[str, object] = {
        "iss": ISSUER,
        "aud": "remit",
        "sub": "5f0c6a2e-6f0e-4f0b-8f7e-9f3f5a7d2c11",
        "client_id": "rag-app",
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(hours=1)).timestamp()),
        "jti": "2f1c9b7e4d3a4c6f8e5d7b9a1c3e5f70",
    }
    good = {algorithm: one(claims) for algorithm, one in sign.items()}
    signed = good["ES256"].rpartition(".")[0]
    ended = {"iat": int((now - timedelta(hours=2)).timestamp()), "exp": int((now - timedelta(hours=1)).timestamp())}
    old = sign["ES256"](claims | ended)
    bad = {
        "garbage": "x.y.z",
        "oversized": "x" * 16_384,
        "other_issuer": sign["ES256"](claims | {"iss": "https://elsewhere.example"}),
        "other_algorithm": jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"typ": "at+jwt", "kid": "ES256"}),
        "forged": f"{signed}.{old.rpartition('.')[2]}",
        "expired": old,
    }
    return good, bad


def _percentiles(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), statistics.quantiles(times, n=20)[18]


def _measure(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Microseconds of each call, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(WARM_UP + ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            call()
            spent = (time.perf_counter_ns() - start) / 1000
            if round_ >= WARM_UP:
                times[name].append(spent)
    return times


async def _calls(service: Service) -> dict[str, list[float]]:
    """Milliseconds of whole calls, interleaved."""
    times: dict[str, list[float]] = {"refused": [], "accepted": []}
    good = service.token("alice")
    tokens = {"refused": good[:-8] + "AAAAAAAA", "accepted": good}
    for round_ in range(50 + CALLS):
        for name, token in tokens.items():
            start = time.perf_counter_ns()
            outcome = await service.call("AccessService/GetCaller", token=token)
            spent = (time.perf_counter_ns() - start) / 1e6
            assert (outcome.code == "OK") == (name == "accepted"), outcome
            if round_ >= 50:
                times[name].append(spent)
    return times


async def _served(folder: Path) -> dict[str, list[float]]:
    async with serving(folder) as service:
        return await _calls(service)


def main() -> None:
    """Measure, and write the report."""
    report = Report("authn", SEED)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as temporary:
        path, sign = _keys(Path(temporary))
        # Settled, as a key file is in service: one that was just written is read again at every call.
        time.sleep(2.1)
        issuer = IssuerSettings(ISSUER, "remit", KeyFile(path), "sub", "people", "id", clients=frozenset({"rag-app"}))
        authenticator = Authenticator([issuer], now=lambda: now)
        good, bad = _tokens(sign, now)

        def verify(token: str) -> Callable[[], object]:
            value = f"Bearer {token}"
            return lambda: authenticator.authenticate(value)

        def refuse(token: str) -> Callable[[], object]:
            value = f"Bearer {token}"

            def call() -> None:
                with contextlib.suppress(TokenRefusedError):
                    authenticator.authenticate(value)
                    raise AssertionError("a bad token was accepted")

            return call

        calls = {f"jwt_verify_{name.lower()}": verify(token) for name, token in good.items()}
        calls |= {f"jwt_refuse_{name}": refuse(token) for name, token in bad.items()}
        found = _measure(calls)
        median, _ = _percentiles(found["jwt_verify_es256"])
        report.add("jwt_verify_p50_us", median, "us", "<= 150", ROUNDS)
        for name, times in found.items():
            median, high = _percentiles(times)
            report.add(f"{name}_p50_us", median, "us", "", len(times))
            report.add(f"{name}_p95_us", high, "us", "", len(times))
        for name, times in asyncio.run(_served(Path(temporary) / "remit")).items():
            median, high = _percentiles(times)
            report.add(f"{name}_call_p50_ms", median, "ms", "", len(times))
            report.add(f"{name}_call_p95_ms", high, "ms", "", len(times))
    report.write()


if __name__ == "__main__":
    main()
