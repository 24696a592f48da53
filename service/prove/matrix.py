"""The picture of people against areas: how much of each area each person may read."""

from __future__ import annotations

from collections.abc import Sequence

from remit.client import NotFoundError
from remit.client.access_values import DocumentPlace

from connectors.directories.static_file import read_people
from connectors.yaml_file import YamlFileError
from service.prove.areas import tops
from service.prove.deployment import Deployment
from service.settings import Settings

_MOST_PEOPLE = 40


def draw(there: Deployment, people: Sequence[str], documents: Sequence[DocumentPlace]) -> dict[str, object]:
    """Rows of people, columns of areas, each cell how many documents may be read; for those of whom it is known."""
    areas = tops(documents)
    rows = []
    for name in people[:_MOST_PEOPLE]:
        try:
            cells, shown = _row(there, name)
        except NotFoundError:
            continue
        counts = [sum(one.document_id in cells for one in area.documents) for area in areas]
        rows.append({"person": name, "name": shown, "counts": counts})
    return {
        "areas": [{"source": area.source, "folder": area.folder, "documents": len(area.documents)} for area in areas],
        "people": rows,
        "more_people": max(0, len(people) - _MOST_PEOPLE),
    }


def _row(there: Deployment, name: str) -> tuple[set[str], str]:
    found: set[str] = set()
    token = ""
    while True:
        page = there.reviewer.list_user_documents(name, page_size=1000, page_token=token)
        found |= {one.document_id for one in page.documents}
        token = page.next_page_token
        if not token:
            return found, page.user.display_name


def people_of(settings: Settings) -> list[str]:
    """The login names of the enabled people of static directories; other directories are not listed."""
    found: list[str] = []
    for one in settings.directories:
        if one.kind == "static" and "path" in one.options:
            path = settings.base / str(one.options["path"])
            try:
                people = read_people(path.read_bytes(), path.name)
            except (OSError, YamlFileError):
                continue
            found += [user.name for user in people.users.values() if user.enabled]
    return sorted(found)
