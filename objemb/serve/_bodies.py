"""The documents of requests and answers: pydantic's models, which check the former and describe both in OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from objemb import checks
from objemb.serve.limits import (
    MAX_BOXES,
    MAX_COLUMNS,
    MAX_FILTER,
    MAX_HITS,
    MAX_STEPS,
    MAX_TEXT,
    MAX_VIEWS,
)
from objemb.serve.problems import Problem, visible_lines

Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Box: TypeAlias = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]],
    Field(min_length=4, max_length=4, description="x1, y1, x2, y2: edges in pixels of the upright photo"),
]
Boxes: TypeAlias = Annotated[list[Box], Field(min_length=1, max_length=MAX_BOXES)]
Words: TypeAlias = Literal["whole", "detector", "both"]
Scalar: TypeAlias = str | int | float | bool | None
D = TypeVar("D", bound="Document")

EXAMPLE_BOX: list[JsonValue] = [40.0, 60.0, 180.0, 220.0]


class Document(BaseModel):
    """A part of a request: unknown keys are errors, and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Document):
    """A photo: one of the uploaded ones, or that of an indexed image."""

    upload: Text | None = Field(None, description="Name of the part of the form that holds the photo.")
    image: Text | None = Field(None, description="Id of an indexed image.")


class View(Source):
    """A photo with boxes."""

    boxes: Boxes | Words | None = Field(
        None, description="Boxes to search for, or whole, detector or both; by default what suits the model."
    )


class SearchRequest(View):
    """A query: a photo with boxes, further views of the object, and counter-examples.

    The photo is the part ``photo`` of the form unless ``upload`` or ``image`` name another one.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": "shelf/1.jpg", "boxes": [EXAMPLE_BOX], "k": 10}]}
    )
    like: list[View] = Field([], max_length=MAX_VIEWS, description="Further views of the object.")
    unlike: list[View] = Field([], max_length=MAX_VIEWS, description="Counter-examples.")
    combine: str = Field(
        "best",
        pattern=r"^(best|mean|classifier)(,[a-z_]+=[0-9]+(\.[0-9]+)?)?$",
        max_length=40,
        description="How views become one query: best, mean or classifier, perhaps with a setting.",
    )
    k: int = Field(10, ge=1, le=MAX_HITS, description="Photos to return.")
    where: str | None = Field(None, max_length=MAX_FILTER, description="A filter such as label = bottle.")
    exclude: list[Text] = Field([], max_length=MAX_HITS, description="Ids of images to leave out.")
    min_score: float | None = Field(None, allow_inf_nan=False, description="Leave out photos with a lower score.")
    at_most_false: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Leave out photos from whose score on more photos without the object are expected.",
    )
    crop: Literal["context", "crop", "scaled", "whole"] = Field("context", description="How a box is described.")
    rerank: list[Text] | None = Field(
        None,
        max_length=MAX_STEPS,
        description="Re-rankers that /v1/info lists; none for an empty list; null: those of the model.",
    )
    exact: bool | None = Field(None, description="Exact search, approximate search, or by the size of the index.")


class DetectRequest(Source):
    """A photo in which to detect objects."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": "shelf/1.jpg"}]})


class DescribeRequest(Source):
    """A photo whose regions are to be described."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": "shelf/1.jpg", "boxes": [EXAMPLE_BOX]}]})
    boxes: Boxes | None = Field(None, description="Boxes to describe; by default the regions that would be indexed.")


class ImageWrite(Document):
    """What is stored with an image."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"boxes": [EXAMPLE_BOX], "labels": ["bottle"], "metadata": {"price": 4.5}}]}
    )
    boxes: Annotated[list[Box], Field(max_length=MAX_BOXES)] | None = Field(
        None, description="Boxes to store beside the whole photo; by default those of the model's detector."
    )
    labels: list[Text | None] | None = Field(None, max_length=MAX_BOXES, description="A label for each box.")
    metadata: dict[Text, Annotated[str, Field(max_length=MAX_TEXT)] | int | float | bool | None] = Field(
        {}, max_length=MAX_COLUMNS
    )


class Hit(BaseModel):
    """A photo that shows the object."""

    image: str
    score: float
    p_false: float | None
    box: Box
    view: int
    query_box: Box
    label: str | None
    metadata: dict[str, Scalar]
    runners_up: list[Hit]


class QueryView(BaseModel):
    """A photo of the query with the boxes that were searched for."""

    image: str
    boxes: list[Box]


class Query(QueryView):
    """What was searched for."""

    more_views: list[QueryView]
    unlike: list[QueryView]


class SearchAnswer(BaseModel):
    """What ``objemb search --json`` prints."""

    query: Query
    scale: str
    approximate: bool
    hits: list[Hit]


class Object(BaseModel):
    """A detected object."""

    box: Box
    score: float
    label: str | None


class DetectAnswer(BaseModel):
    """Detected objects, best first; size is height and width."""

    image: str
    size: list[int]
    objects: list[Object]


class Region(Object):
    """A described region."""

    vector: list[float]


class DescribeAnswer(BaseModel):
    """Described regions; size is height and width."""

    image: str
    size: list[int]
    regions: list[Region]


class StoredImage(BaseModel):
    """An indexed image; size is height and width. The first box is the whole photo where the index has regions."""

    image: str
    size: list[int]
    regions: list[Object]
    metadata: dict[str, Scalar]
    photo: bool = Field(description="Whether its photo can be shown.")


class ImageList(BaseModel):
    """A page of the library; next is the start of the following one."""

    images: list[str]
    total: int
    next: int | None


class Deleted(BaseModel):
    """What a deletion has removed."""

    deleted: str


class ProblemDetails(BaseModel):
    """A problem by RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    expected: str | None = None
    found: str | None = None


def parsed(document: type[D], content: bytes | str) -> D:
    """A checked document of a request.

    Raises:
        Problem: It is no JSON, or a value is not what is expected; the first such value is named.
    """
    try:
        return document.model_validate_json(content)
    except ValidationError as error:
        found: list[Any] = error.errors(include_url=False, include_context=False)
    # of the alternatives of a value the one that it was meant to be
    words = (one for one in found if one["type"] == "literal_error" and isinstance(one["input"], str))
    details = next(words, found[0])
    keys = [part for part in details["loc"] if isinstance(part, int) or "[" not in part]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys).lstrip(".")
    if details["type"] == "extra_forbidden":
        known = document.model_fields
        name = str(details["loc"][-1])
        hint = checks.nearest(name, known) if len(details["loc"]) == 1 else ""
        raise Problem(422, visible_lines(f"{where[:200]}: expected no such key, found one{hint}"))
    expected = str(details["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    raise Problem(
        422,
        visible_lines(f"{where or 'body'}: expected {expected}, found {checks.short(details['input'])}"),
    )
