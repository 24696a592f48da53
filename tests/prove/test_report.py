"""What a proof comes to: a skip never passes, nor does nothing at all; areas are found by the names people use."""

from __future__ import annotations

import pytest
from remit.client.access_values import DocumentPlace

from service.errors import StartError
from service.prove.areas import find
from service.prove.report import Check, Result, overall
from service.prove.revocation import _percentile

PASSED, FAILED, NOT_RUN, LEFT_OUT = Result.PASSED, Result.FAILED, Result.NOT_RUN, Result.LEFT_OUT


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([], NOT_RUN),
        ([PASSED], PASSED),
        ([PASSED, NOT_RUN], NOT_RUN),
        ([NOT_RUN], NOT_RUN),
        ([PASSED, FAILED], FAILED),
        ([NOT_RUN, FAILED], FAILED),
        ([PASSED, LEFT_OUT], PASSED),
        ([LEFT_OUT], NOT_RUN),
        ([LEFT_OUT, NOT_RUN, PASSED], NOT_RUN),
        ([LEFT_OUT, FAILED], FAILED),
    ],
)
def test_only_a_whole_pass_is_a_pass(results: list[Result], expected: Result) -> None:
    """A check that was not run is no pass, and neither are no checks."""
    assert overall([Check("x", result, "") for result in results]) is expected


DOCUMENTS = [
    DocumentPlace(f"{number}", source, location)
    for number, (source, location) in enumerate(
        [
            ("company", "Sales/a.txt"),
            ("company", "Sales/Helios/b.txt"),
            ("company", "Salesforce/c.txt"),
            ("company", "HR/Archive/d.txt"),
            ("company", "Legal/Archive/e.txt"),
            ("wiki", "Sales/f.txt"),
        ]
    )
]


@pytest.mark.parametrize(
    ("named", "source", "folder", "ids"),
    [
        ("company:sales", "company", "Sales", "01"),
        ("HELIOS", "company", "Sales/Helios", "1"),
        ("hr/archive", "company", "HR/Archive", "3"),
        ("wiki", "wiki", "", "5"),
        ("salesforce", "company", "Salesforce", "2"),
    ],
)
def test_an_area_is_found_by_its_name(named: str, source: str, folder: str, ids: str) -> None:
    """In any case; a folder whose name only begins alike is another."""
    found = find(named, DOCUMENTS)

    assert (found.source, found.folder) == (source, folder)
    assert "".join(one.document_id for one in found.documents) == ids


@pytest.mark.parametrize(
    ("named", "said"), [("sales", "`wiki:Sales`"), ("archive", "`HR/Archive`"), ("x", "no document")]
)
def test_a_name_for_several_areas_or_none_is_refused(named: str, said: str) -> None:
    """With the names that would do."""
    with pytest.raises(StartError, match=r"name one of them in full|name a source or a folder") as caught:
        find(named, DOCUMENTS)
    assert said.strip("`") in str(caught.value)


def test_percentiles_are_values_that_occurred() -> None:
    """The smallest value that the share is not above."""
    assert [_percentile([3, 1, 2], share) for share in (0.5, 0.95, 1)] == [2, 3, 3]
    assert _percentile([], 0.5) is None
