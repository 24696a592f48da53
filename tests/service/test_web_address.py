"""Addresses in the settings: what nobody could connect to is a mistake with its line, before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.sections import initial
from service.settings import Settings, SettingsError, load

_ALERTS = "audit: {{alerts: [{{webhook: {0}, secret: ./secret}}]}}\n"
_TRACES = "observe: {{traces: {0}}}\n"
_QDRANT = "index: {{backend: qdrant, url: {0}}}\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Settings]:
    """Read good settings with something at their end."""
    initial.write(tmp_path)
    file = tmp_path / "remit.yaml"
    good = file.read_text()

    def made(text: str) -> Settings:
        file.write_text(good + text)
        return load(file)

    return made


@pytest.mark.parametrize("settings", [_ALERTS, _TRACES, _QDRANT])
@pytest.mark.parametrize(
    "address",
    ["https://[::1/x", "https://a:99999", "https://a:b", "https://xn--\u2100.com", "https://ex ample", "https://u@a"],
)
def test_an_address_that_is_none_is_a_mistake_with_its_line(
    write: Callable[[str], Settings], settings: str, address: str
) -> None:
    """Wherever the settings name one: not a traceback, and not an alert that nobody is ever told of."""
    with pytest.raises(SettingsError, match=r"remit\.yaml:\d+: .*expected an"):
        write(settings.format(f'"{address}"'))

    assert write(settings.format("https://a.example:8443")) is not None
    assert write(settings.format("'https://[::1]:8443'")) is not None
