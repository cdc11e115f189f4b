"""The pages as browsers ask for them; every name and number is written by templates that escape it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.overview import plot
from experiments.web.api import matched_points
from experiments.web.asking import Asked, Found, box_of, steps_of
from experiments.web.faults import RequestFault
from experiments.web.site import Site
from experiments.web.uploads import kept_meanwhile

HERE = Path(__file__).parent
_RESULTS_A_PAGE, _MOST_PAGES = 24, 40
_PHOTOS_A_PAGE = 60
_GROUPS_A_PAGE, _PHOTOS_A_GROUP, _GROUPS_SHOWN = 30, 14, 200

Texts = Annotated[list[str], Form()]
Text = Annotated[str, Form()]
Asks = Annotated[list[str], Query()]
Upload = Annotated[UploadFile | None, File()]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the form of the search page says, as text; what it should be is checked when it is searched."""

    row: str = ""
    box: str = ""
    step: Sequence[str] = ()
    right: Sequence[str] = ()
    page: str = "1"


async def _filled(
    row: Text = "",
    box: Text = "",
    step: Texts = [],  # noqa: B006
    right: Texts = [],  # noqa: B006
    page: Text = "1",
) -> Wish:
    """What was sent with the form."""
    return Wish(row=row, box=box, step=step, right=right, page=page)


Filled = Annotated[Wish, Depends(_filled)]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is shown for a wish: results of one page, or messages by field; neither before a search."""

    results: Sequence[Found] | None = None
    first: int = 0
    page: int = 1
    pages: int = 1
    messages: dict[str, str] = field(default_factory=dict)


def routes(site: Site) -> APIRouter:
    """The pages of what `site` serves."""
    pages, shown = APIRouter(include_in_schema=False), _Shown(site)

    @pages.get("/")
    async def search_page(
        row: str = "",
        box: str = "",
        step: Asks = [],  # noqa: B006
        right: Asks = [],  # noqa: B006
        page: str = "1",
    ) -> HTMLResponse:
        wish = Wish(row=row, box=box, step=step, right=right, page=page)
        answer = await shown.answer(wish, None) if row else Answer()
        return await shown.search_page(wish, answer)

    @pages.post("/")
    async def searched_page(wish: Filled, photo: Upload = None) -> HTMLResponse:
        return await shown.search_page(wish, await shown.answer(wish, photo))

    @pages.post("/results")
    async def results(wish: Filled, photo: Upload = None) -> HTMLResponse:
        # Messages for a person come with status 200: browsers log others as errors of the page.
        return shown.render("answer.html", wish=wish, answer=await shown.answer(wish, photo))

    @pages.post("/points")
    async def points(
        to: Text,
        photo: Upload = None,
        name: Text = "",
        box: Text = "",
    ) -> JSONResponse:
        try:
            found = await matched_points(site, photo, name, box, to)
        except RequestFault as fault:
            return JSONResponse({"field": fault.field, "message": fault.message})
        return JSONResponse(found.model_dump())

    _lists(site, pages, shown)
    return pages


def _lists(site: Site, pages: APIRouter, shown: "_Shown") -> None:
    @pages.get("/photos")
    async def photos(page: int = 1, name: str = "") -> HTMLResponse:
        return shown.photos(page, name)

    @pages.get("/collection")
    async def collection(page: int = 1) -> HTMLResponse:
        return shown.collection(page)

    @pages.get("/collection/map")
    async def collection_map() -> HTMLResponse:
        try:
            drawn = plot.draw(await site.glance.map(), site.glance.places)
        except RequestFault as fault:
            return shown.render("message.html", message=fault.message)
        served = site.served
        pictures = {
            dot.row: f"/thumbnails/{dot.row}?v={served.version}"
            for dot in drawn.pictures
            if not served.state(dot.row)
        }
        return shown.render("map.html", drawn=drawn, pictures=pictures)

    @pages.get("/collection/copies")
    async def collection_copies() -> HTMLResponse:
        try:
            groups = await site.glance.copies()
        except RequestFault as fault:
            return shown.render("message.html", message=fault.message)
        return shown.render(
            "copies.html", groups=groups[:_GROUPS_SHOWN], count=len(groups), most=_PHOTOS_A_GROUP
        )


class _Shown:
    """Turns what is known into pages."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._environment = Environment(
            loader=FileSystemLoader([HERE / "templates", HERE.parent]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {
            "title": site.title,
            "served": site.served,
            "steps": site.steps,
            "max_bytes": site.max_bytes,
            "matches": site.matcher is not None,
        }

    def render(self, template: str, **values: Any) -> HTMLResponse:
        """A template with the values given."""
        return HTMLResponse(self._environment.get_template(template).render(**values))

    async def answer(self, wish: Wish, photo: UploadFile | None) -> Answer:
        """Search as the form says; a wrong wish is told beside its field."""
        site = self._site
        try:
            async with kept_meanwhile(photo, site.uploads, site.max_bytes) as upload:
                pages = min(_MOST_PAGES, -(-len(site.served.shown) // _RESULTS_A_PAGE))
                page = min(max(1, _number(wish.page, "page")), pages)
                asked = Asked(
                    row=site.served.checked(_number(wish.row, "row")) if wish.row and not upload else None,
                    upload=upload,
                    box=box_of(wish.box),
                    right=tuple(site.served.checked(_number(row, "right"), "right") for row in wish.right),
                    steps=steps_of(list(wish.step), site.steps),
                    top=page * _RESULTS_A_PAGE,
                )
                found = await site.searcher.search(asked)
        except RequestFault as fault:
            return Answer(messages={fault.field: fault.message})
        first = (page - 1) * _RESULTS_A_PAGE
        return Answer(results=found[first:], first=first, page=page, pages=pages)

    async def search_page(self, wish: Wish, answer: Answer) -> HTMLResponse:
        """The page with its form as it was, and what was found."""
        chosen, size, messages = None, (0, 0), dict(answer.messages)
        if wish.row:
            try:
                chosen = self._site.served.checked(_number(wish.row, "row"))
                size = await self._site.pictures.size(chosen)
            except RequestFault as fault:
                chosen = None
                messages.setdefault("photo", fault.message)
        told = Answer(
            results=answer.results,
            first=answer.first,
            page=answer.page,
            pages=answer.pages,
            messages=messages,
        )
        return self.render("search.html", wish=wish, answer=told, chosen=chosen, size=size)

    def photos(self, page: int, name: str) -> HTMLResponse:
        """Photos of the collection to choose from."""
        rows = self._site.served.matching(name[:200])
        pages = max(1, -(-len(rows) // _PHOTOS_A_PAGE))
        page = min(max(1, page), pages)
        some = rows[(page - 1) * _PHOTOS_A_PAGE : page * _PHOTOS_A_PAGE].tolist()
        return self.render("photos.html", rows=some, count=len(rows), page=page, pages=pages, name=name)

    def collection(self, page: int) -> HTMLResponse:
        """Places; map and near-copies come later."""
        glance = self._site.glance
        pages = max(1, -(-len(glance.places) // _GROUPS_A_PAGE))
        page = min(max(1, page), pages)
        some = slice((page - 1) * _GROUPS_A_PAGE, page * _GROUPS_A_PAGE)
        return self.render(
            "collection.html",
            places=glance.places[some],
            num_places=len(glance.places),
            most=_PHOTOS_A_GROUP,
            page=page,
            pages=pages,
        )


def _number(text: str, field: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise RequestFault(field, f"{field}: expected a number, got '{text[:40]}'; start anew")
    return int(text)
