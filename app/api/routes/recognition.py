"""``/enroll``, ``/verify``, ``/identify`` and ``/detect``: photographs in, decisions out."""

from __future__ import annotations

import hashlib
from typing import Annotated

import pydantic_core
from fastapi import APIRouter, Depends, Header, Request, Response

from app.api import presenters, schemas
from app.api.dependencies import Admitted, ComponentsDependency
from app.api.problems import problems
from app.api.request_parsing import body_of, openapi_body
from app.decisions import Decision
from app.recognition.results import Enrolment, EnrolmentRequest, Idempotency, Replay, Verification
from app.timing import stage

router = APIRouter(tags=["recognition"], dependencies=[Admitted])

SERIALISE = "serialise"
BODY_CODES = (
    "overloaded",
    "deadline_exceeded",
    "malformed_body",
    "unsupported_media_type",
    "body_too_large",
    "invalid_request",
)
IMAGE_CODES = (
    "empty_image",
    "unsupported_image_format",
    "animated_image",
    "truncated_image",
    "corrupt_image",
    "image_too_large",
    "image_too_small",
)
FACE_CODES = (
    *BODY_CODES,
    *IMAGE_CODES,
    "no_face",
    "multiple_faces",
    "degenerate_landmarks",
    "gallery_unavailable",
    "collection_not_found",
)

EnrollBody = Annotated[schemas.EnrollRequest, Depends(body_of(schemas.EnrollRequest))]
VerifyBody = Annotated[schemas.VerifyRequest, Depends(body_of(schemas.VerifyRequest))]
IdentifyBody = Annotated[schemas.IdentifyRequest, Depends(body_of(schemas.IdentifyRequest))]
DetectBody = Annotated[schemas.DetectRequest, Depends(body_of(schemas.DetectRequest))]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="a request repeated with the same key within 24 hours gets the first answer again",
    ),
]


def fingerprint(body: schemas.EnrollRequest) -> str:
    """Digest of the content of a request, however it was encoded."""
    digest = hashlib.sha256(pydantic_core.to_json(body.model_dump(exclude={"image"})))
    for image in body.image:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()


@router.post(
    "/enroll",
    status_code=201,
    response_model=schemas.EnrollResponse,
    summary="Remember a person",
    openapi_extra=openapi_body(schemas.EnrollRequest),
    responses=problems(
        *FACE_CODES,
        "too_many_images",
        "low_quality",
        "no_usable_image",
        "face_policy_not_allowed",
        "subject_exists",
        "idempotency_key_reused",
        "idempotency_conflict",
    ),
)
async def enroll(
    request: Request, body: EnrollBody, components: ComponentsDependency, idempotency_key: IdempotencyKey = None
) -> Response:
    """Makes a template from each photograph that shows one good face and stores the templates under the subject.

    Photographs that give no template are listed in `failures`; the request fails only if none gives one. Other
    subjects that match are listed in `possible_duplicates`; the enrolment stands regardless.
    """
    service = components.recognition

    def render(result: Enrolment) -> str:
        return presenters.enrolment(result, service.encoder, service.calibration).model_dump_json()

    report = body.report_duplicates
    enrolment = EnrolmentRequest(
        images=body.image,
        subject_id=body.subject_id,
        collection=body.collection,
        metadata=body.metadata,
        face_policy=body.face_policy,
        on_conflict=body.on_conflict,
        report_duplicates=components.settings.gallery.report_duplicates if report is None else report,
    )
    idempotency = Idempotency(idempotency_key, fingerprint(body), render) if idempotency_key else None

    def answer() -> tuple[str, bool]:
        result = service.enroll(enrolment, idempotency)
        if isinstance(result, Replay):
            return result.body, True
        with stage(SERIALISE):
            return render(result), False

    content, replayed = await components.admission.run(request, answer)
    return _answer(content, 201, {"Idempotency-Replayed": "true"} if replayed else None)


@router.post(
    "/verify",
    response_model=schemas.VerifyResponse,
    summary="Is this that person?",
    openapi_extra=openapi_body(schemas.VerifyRequest),
    responses=problems(*FACE_CODES, "subject_not_found", "target_unsupported"),
)
async def verify(request: Request, body: VerifyBody, components: ComponentsDependency) -> Response:
    """Compares the photograph with a second one (`reference`) or with an enrolled subject (`subject_id`).

    The threshold follows from `target_fmr`, the highest false match rate that you accept, in every measured group of
    people unless `claim` says otherwise; or from `max_distance` or `min_similarity`. The answer says how often two
    different people are as near as these two faces.
    """
    service = components.recognition

    def compare() -> Verification:
        policy, requested = body.face_policy, body.requested()
        if body.reference is not None:
            return service.verify(body.image, body.reference, face_policy=policy, requested=requested)
        assert body.subject_id is not None
        return service.verify_subject(
            body.image, body.collection, body.subject_id, face_policy=policy, requested=requested
        )

    def answer() -> tuple[Decision, str]:
        result = compare()
        with stage(SERIALISE):
            out = presenters.verification(result, service.encoder, service.calibration)
            return result.outcome.decision, out.model_dump_json()

    decision, content = await components.admission.run(request, answer)
    components.metrics.decisions.labels("verify", decision).inc()
    return _answer(content)


@router.post(
    "/identify",
    response_model=schemas.IdentifyResponse,
    summary="Who is this?",
    openapi_extra=openapi_body(schemas.IdentifyRequest),
    responses=problems(*FACE_CODES, "target_unsupported"),
)
async def identify(request: Request, body: IdentifyBody, components: ComponentsDependency) -> Response:
    """Searches a collection; returns one candidate per subject, nearest first, each with its own decision.

    The threshold follows from `target_fpir`, the highest share of searches for people who are not enrolled that may
    return a match, and from the number of subjects; or from `max_distance` or `min_similarity`.
    """
    service = components.recognition

    def answer() -> tuple[Decision, str]:
        result = service.identify(
            body.image, body.collection, body.top_k, face_policy=body.face_policy, requested=body.requested()
        )
        with stage(SERIALISE):
            out = presenters.identification(result, service.encoder, service.calibration)
            return result.faces[0].outcome.decision, out.model_dump_json()

    decision, content = await components.admission.run(request, answer)
    components.metrics.decisions.labels("identify", decision).inc()
    return _answer(content)


@router.post(
    "/detect",
    response_model=schemas.DetectResponse,
    summary="Find faces and measure their quality",
    openapi_extra=openapi_body(schemas.DetectRequest),
    responses=problems(*BODY_CODES, *IMAGE_CODES, "degenerate_landmarks"),
)
async def detect(request: Request, body: DetectBody, components: ComponentsDependency) -> Response:
    """Boxes, landmarks and quality of all faces; nothing is stored or compared."""

    def answer() -> str:
        found = components.recognition.detect(body.image)
        with stage(SERIALISE):
            faces = [presenters.face(face) for face in found.faces]
            return schemas.DetectResponse(width=found.width, height=found.height, faces=faces).model_dump_json()

    return _answer(await components.admission.run(request, answer))


def _answer(content: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response from JSON that was already serialised on a thread."""
    return Response(content, status_code=status, headers=headers, media_type="application/json")
