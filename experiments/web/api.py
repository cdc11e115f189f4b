"""The JSON interface: search, matched points, the photos of the collection; described by /openapi.json."""

from typing import Annotated

from fastapi import APIRouter, File, Form, Query, UploadFile
from pydantic import BaseModel, Field

from experiments.web.asking import Asked, Found, box_of, steps_of
from experiments.web.faults import RequestFault
from experiments.web.site import Site
from experiments.web.uploads import kept_meanwhile

MOST_RESULTS = 1000

Photo = Annotated[UploadFile | None, File(description="a photo to search with")]
Name = Annotated[str, Form(description="a photo of the collection to search with, in place of `photo`")]
Box = Annotated[str, Form(description="x1,y1,x2,y2 in px of the upright photo; empty for all of it")]
Top = Annotated[int, Form(ge=1, le=MOST_RESULTS, description="results at most")]
Rerank = Annotated[list[str], Form(description="steps of re-ranking, as GET /api/collection lists them")]
Right = Annotated[
    list[str], Form(description="names of results that are right: the query moves towards them")
]


class Result(BaseModel):
    """A photo of the collection, or the box of it that was described."""

    name: str
    score: float
    box: tuple[float, float, float, float] | None = None
    inliers: int | None = Field(default=None, description="matched points that one geometry explains")
    confidence: float | None = Field(
        default=None, description="chance that it shows the same, where the model has a calibration"
    )


class Results(BaseModel):
    """Best first, without the query itself."""

    results: list[Result]


class Fault(BaseModel):
    """Why a request was not answered; `field` is the part of it that is wrong."""

    field: str
    message: str


class CollectionFacts(BaseModel):
    """What is searched."""

    photos: int
    length: int = Field(description="of a descriptor")
    rerank: dict[str, str] = Field(description="steps of re-ranking and what they are called")


class Names(BaseModel):
    """Names in the order of the collection."""

    photos: int
    names: list[str]


class MatchedPoints(BaseModel):
    """Points that two photos share, in px of the upright photos: x and y in the query, then in the other."""

    query_size: tuple[int, int]
    photo_size: tuple[int, int]
    points: list[tuple[float, float, float, float]]


FAULTS: dict[int | str, dict[str, object]] = {
    status: {"model": Fault} for status in (403, 404, 408, 413, 422, 503)
}


def routes(site: Site) -> APIRouter:
    """The interface to what `site` serves."""
    api = APIRouter(prefix="/api", responses=FAULTS)

    @api.get("/collection")
    async def collection() -> CollectionFacts:
        """What is searched, and how it can be re-ranked."""
        served = site.served
        return CollectionFacts(photos=len(served.shown), length=served.vectors.shape[1], rerank=site.steps)

    @api.get("/photos")
    async def photos(
        start: Annotated[int, Query(ge=0)] = 0, count: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> Names:
        """Names of photos of the collection."""
        served = site.served
        some = served.shown[start : start + count].tolist()
        return Names(photos=len(served.shown), names=[served.names[row] for row in some])

    @api.post("/search", response_model_exclude_none=True)
    async def search(
        photo: Photo = None,
        name: Name = "",
        top: Top = 10,
        box: Box = "",
        rerank: Rerank = [],  # noqa: B006
        right: Right = [],  # noqa: B006
    ) -> Results:
        """Rank the collection for a photo, or a part of it."""
        async with kept_meanwhile(photo, site.uploads, site.max_bytes) as upload:
            asked = Asked(
                row=site.served.row_of(name) if name and upload is None else None,
                upload=upload,
                box=box_of(box),
                right=site.served.rows_named(right, "right"),
                steps=steps_of(rerank, site.steps),
                top=top,
            )
            return Results(results=[_result(found) for found in await site.searcher.search(asked)])

    @api.post("/matches")
    async def matches(
        to: Annotated[str, Form(description="the photo of the collection to compare with")],
        photo: Photo = None,
        name: Name = "",
        box: Box = "",
    ) -> MatchedPoints:
        """The points that a photo, or a part of it, shares with one of the collection."""
        return await matched_points(site, photo, name, box, to)

    return api


async def matched_points(site: Site, photo: UploadFile | None, name: str, box: str, to: str) -> MatchedPoints:
    """The points that an upload, or else the photo of a name, shares with the photo `to`."""
    if site.matcher is None:
        raise RequestFault("", "matches: expected a way to match photos, got none on this server", 404)
    async with kept_meanwhile(photo, site.uploads, site.max_bytes) as upload:
        own = site.served.path(site.served.row_of(name)) if name and upload is None else upload
        if own is None:
            raise RequestFault("photo", "photo: expected one to compare, got none; choose a photo")
        found = await site.matcher.matched(own, box_of(box), site.served.row_of(to, "to"))
        return MatchedPoints(query_size=found.query_size, photo_size=found.photo_size, points=found.points)


def _result(found: Found) -> Result:
    return Result(
        name=found.name,
        score=round(found.score, 6),
        box=found.box,
        inliers=found.inliers,
        confidence=None if found.confidence is None else round(found.confidence, 4),
    )
