"""Callers that ask in turns, the same questions, a hundred thousand times: nobody is given another's answer."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from remit.v1 import retrieval_pb2

from acl.model import Caller
from acl.principal import Principal
from service.identity.lookups import Keeping, Lookups
from tests.service.directory_fake import FakeDirectory
from tests.service.harness import CORP, EPOCH, EVERYBODY, PEOPLE, Service, allow, serving

INTERLEAVED = 100_000
_SEED = 20261125
# Names whose joined spellings collide: `gid-1`+`23` is `gid-12`+`3`, and a comma or a colon stands in some.
GROUPS = [Principal(CORP, f"gid-{name}") for name in ("1", "12", "123", "2", "23", "3", "13", "31", "11", "111")]


def crowd(random_: random.Random, count: int) -> list[frozenset[Principal]]:
    """Sets of groups, many of which are another's with one more or one less."""
    made = [frozenset(random_.sample(GROUPS, random_.randint(0, 4))) for _ in range(count // 2)]
    return made + [one ^ {random_.choice(GROUPS)} for one in made]


async def filled(service: Service) -> dict[int, frozenset[Principal]]:
    """A document for every pair of groups; return who reads what, by ordinal."""
    readers: dict[str, frozenset[Principal]] = {}
    for one in GROUPS:
        for other in GROUPS:
            name = f"{one.id}-{other.id}"
            readers[name] = frozenset({one, other})
            service.add(name, f"plan {name}", allow(*readers[name]))
    service.sync()
    ids = service.document_ids()
    with service.catalog.reader() as reader:
        found = {name: reader.document_by_id(document_id) for name, document_id in ids.items()}
    return {stored.ordinal: readers[name] for name, stored in found.items() if stored is not None}


@pytest.mark.slow
async def test_a_hundred_thousand_interleaved_callers_each_get_their_own(tmp_path: Path) -> None:
    """What is proposed for each is compared with the groups themselves, while callers take turns at random.

    All of them have one subject: what tells them apart is what they hold.
    """
    random_ = random.Random(_SEED)
    async with serving(tmp_path / "remit") as service:
        readers = await filled(service)
        sets = crowd(random_, 200)
        expected = [frozenset(o for o, groups in readers.items() if groups & held) for held in sets]
        assert len(set(expected)) > 50
        complete, made = frozenset({CORP}), dict[int, Caller]()
        with service.access.snapshot() as snapshot:
            for _ in range(INTERLEAVED):
                number = random_.randrange(len(sets))
                # The caller of before, or one that is equal to it: a cache by value is met as well as one by identity.
                caller = made.get(number)
                if caller is None or random_.random() < 0.2:
                    principals = frozenset(sets[number] | {EVERYBODY})
                    caller = made[number] = Caller("somebody", principals, complete, EPOCH, EPOCH + timedelta(hours=1))
                permitted = snapshot.permitted(caller, frozenset())
                assert frozenset(permitted.documents) == expected[number]


@pytest.mark.slow
def test_answers_of_a_directory_that_are_kept_go_to_whom_they_are_about() -> None:
    """A hundred thousand questions in turns from four threads, under names that collide when they are joined.

    The same value under another attribute is another account.
    """
    directory = FakeDirectory("people", CORP)
    values = ["1", "12", "123", "2", "23", "3", "a", "A", "а", "a ", "a\0", "a:b", "b", ""]
    for attribute in ("id", "i", "d1", "id1", "entryUUID"):
        for value in values:
            account = f"<{attribute}|{value}>"
            directory.add(attribute, value, f"g{account}", account=account)
    lookups = Lookups(directory, Keeping(keep_for=timedelta(hours=1), max_age=timedelta(hours=2)))
    keys = sorted(directory.accounts)

    def ask(seed: int) -> list[str]:
        random_, wrong = random.Random(seed), []
        for _ in range(INTERLEAVED // 4):
            attribute, value = random_.choice(keys)
            kept = lookups.resolve(attribute, value, mark=lambda: 0)
            if kept.resolution.account_id != f"<{attribute}|{value}>":
                wrong.append(kept.resolution.account_id)
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert [w for wrong in pool.map(ask, range(4)) for w in wrong] == []
    assert lookups.keeps
    assert directory.asked <= 4 * len(keys), "the control: answers were kept"


@pytest.mark.slow
async def test_interleaved_questions_over_the_wire_get_the_answers_of_their_own_callers(tmp_path: Path) -> None:
    """Forty people ask the same three questions at once, in every order: each answer is that of a quiet moment."""
    random_ = random.Random(_SEED)
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as service:
        await filled(service)
        people, names = PEOPLE.partition("groups:\n")[0], []
        groups = "".join(f"  - {{id: g{one.id[4:]}, gid: {one.id[4:]}}}\n" for one in GROUPS)
        for number, held in enumerate(crowd(random_, 40)):
            joined = ", ".join(f"g{one.id[4:]}" for one in held)
            names.append(f"p{number}")
            people += (
                f"  - {{id: v-{number}, name: p{number}, uid: {30000 + number}, gid: 29999, groups: [{joined}]}}\n"
            )
        service.people(people + "groups:\n" + groups + PEOPLE.partition("groups:\n")[2])
        tokens = {name: service.token(name) for name in names}
        requests = [retrieval_pb2.SearchRequest(query=text, limit=100) for text in ("plan", "gid-12-gid-3", "gid-1")]

        async def ask(name: str, number: int) -> bytes:
            outcome = await service.call("RetrievalService/Search", requests[number], token=tokens[name])
            assert outcome.code == "OK", outcome
            return outcome.message

        quiet = {(name, number): await ask(name, number) for name in names for number in range(3)}
        assert len(set(quiet.values())) > 30
        asked = [(random_.choice(names), random_.randrange(3)) for _ in range(600)]
        for start in range(0, len(asked), 20):
            part = asked[start : start + 20]
            answers = await asyncio.gather(*(ask(*one) for one in part))
            assert answers == [quiet[one] for one in part]
