"""A request as handlers see it, their answers, and lists as every kind of resource has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import attrs

from .labels import parse_selector
from .model import Resource
from .validate import Page, Query
from .world import World

Json = dict[str, Any]
R = TypeVar("R", bound=Resource)


@attrs.frozen
class Request:
    world: World
    project: str
    ids: tuple[int, ...]
    """Those in the path, from left to right."""
    values: dict[str, list[str]]
    """The query."""
    body: Json
    path: str

    def query(self, *allowed: str) -> Query:
        return Query(self.values, allowed)


@attrs.frozen
class Answer:
    status: int
    body: Json | None = None
    page: tuple[Page, int] | None = None
    """And how many entries there are in all: for the Link header."""


Handler = Callable[[Request], Answer]


def paged(request: Request, key: str, page: Page, entries: Sequence[Json]) -> Answer:
    """The page of them, with `meta`."""
    start = (page.number - 1) * page.size
    chosen = list(entries[start : start + page.size])
    body = {key: chosen, "meta": {"pagination": page.links(len(entries))}}
    return Answer(200, body, (page, len(entries)))


def listed(
    request: Request,
    kind: type[R],
    show: Callable[[R], Json],
    *,
    sortable: Collection[str],
    keep: Callable[[Query, R], bool] | None = None,
    extra: Iterable[str] = (),
) -> Answer:
    """GET of a collection: name, label_selector, sort, page, per_page, and `extra` with `keep`."""
    sorting = ("sort",) if sortable else ()
    query = request.query("name", "label_selector", "page", "per_page", *sorting, *extra)
    page, text, name = query.page(), query.one("label_selector"), query.one("name")
    selector = parse_selector(text) if text else None
    found = request.world.listed(kind, request.project, selector)
    if name is not None:
        found = [entry for entry in found if entry.name == name]
    if keep is not None:
        found = [entry for entry in found if keep(query, entry)]
    for field, descending in reversed(query.sort(sortable) if sorting else []):
        found.sort(key=lambda entry: getattr(entry, field), reverse=descending)
    return paged(request, kind.plural, page, [show(entry) for entry in found])
