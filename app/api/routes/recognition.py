"""``/enroll``, ``/verify``, ``/identify`` and ``/detect``: photographs in, decisions out."""

from __future__ import annotations

import hashlib
import uuid
from typing import Annotated

import pydantic_core
from fastapi import APIRouter, Depends, Header, Request, Response

from app.api import presenters, schemas
from app.api.dependencies import CallerDependency, ComponentsDependency, allow
from app.api.document import openapi_body
from app.api.problems import problems
from app.api.request_parsing import body_of
from app.decisions import Decision
from app.gallery import OnConflict
from app.recognition.results import Enrolment, EnrolmentRequest, Idempotency, Identification, Replay, Verification
from app.security.keys import Scope
from app.security.trail import ALSO
from app.timing import stage

router = APIRouter(tags=["recognition"])

SERIALISE = "serialise"
BODY_CODES = (
    "overloaded",
    "deadline_exceeded",
    "malformed_body",
    "unsupported_media_type",
    "body_too_large",
    "too_many_images",
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
    "too_much_work",
)
FACE_CODES = (
    *BODY_CODES,
    *IMAGE_CODES,
    "no_face",
    "multiple_faces",
    "degenerate_landmarks",
    "gallery_unavailable",
    "template_damaged",
    "subject_damaged",
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
    dependencies=[allow(Scope.ENROLL)],
    status_code=201,
    response_model=schemas.EnrollResponse,
    summary="Remember a person",
    openapi_extra=openapi_body(schemas.EnrollRequest),
    responses=problems(
        *FACE_CODES,
        "low_quality",
        "no_usable_image",
        "face_policy_not_allowed",
        "subject_exists",
        "idempotency_key_reused",
        "idempotency_conflict",
        "too_many_templates",
    ),
)
async def enroll(
    request: Request,
    body: EnrollBody,
    components: ComponentsDependency,
    caller: CallerDependency,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Makes a template from each photograph that shows one good face and stores the templates under the subject.

    Photographs that give no template are listed in `failures`; the request fails only if none gives one. Other
    subjects that match are listed in `possible_duplicates`; the enrolment stands regardless. To `replace` what is
    enrolled, or to append so much that older templates are no longer compared, a key needs the scope `delete`, too;
    to see who the duplicates are, `identify` or `read`.
    """
    service, replaces = components.recognition, body.on_conflict is OnConflict.REPLACE
    caller.require_collection(body.collection)
    if replaces:
        caller.require(Scope.DELETE)

    sees_others = caller.may(Scope.IDENTIFY, Scope.READ)

    def render(result: Enrolment) -> str:
        answer = presenters.enrolment(result, service.encoder, service.calibration, duplicates=sees_others)
        return answer.model_dump_json()

    report = body.report_duplicates
    enrolment = EnrolmentRequest(
        images=body.image,
        subject_id=body.subject_id or uuid.uuid4().hex,
        collection=body.collection,
        metadata=body.metadata,
        face_policy=body.face_policy,
        on_conflict=body.on_conflict,
        report_duplicates=components.settings.gallery.report_duplicates if report is None else report,
        may_displace=caller.may(Scope.DELETE),
    )
    # The keys of two callers do not meet: neither learns what the other one sent.
    own_key = f"{caller.key_id or ''}:{idempotency_key}"
    idempotency = Idempotency(own_key, fingerprint(body), render) if idempotency_key else None

    def answer() -> tuple[Enrolment | Replay, str]:
        result = service.enroll(enrolment, idempotency)
        if isinstance(result, Replay):
            return result, result.body
        with stage(SERIALISE):
            return result, render(result)

    async with components.recorded_change(
        request, "enroll", body.collection, enrolment.subject_id, erases=replaces
    ) as outcome:
        result, content = await components.admission.run(request, answer)
        if isinstance(result, Replay):
            outcome.value, outcome.subject = "replayed", body.subject_id
        else:
            components.metrics.count_not_acquired("enroll", [image.error.code for image in result.rejected])
            outcome.value = body.on_conflict
            outcome.details = {
                "templates": len(result.enrolled),
                **presenters.versions(service.encoder, service.calibration),
            }
    return _answer(content, 201, {"Idempotency-Replayed": "true"} if isinstance(result, Replay) else None)


@router.post(
    "/verify",
    dependencies=[allow(Scope.VERIFY)],
    response_model=schemas.VerifyResponse,
    summary="Is this that person?",
    openapi_extra=openapi_body(schemas.VerifyRequest),
    responses=problems(*FACE_CODES, "too_many_faces", "subject_not_found", "target_unsupported", "locked_out"),
)
async def verify(
    request: Request, body: VerifyBody, components: ComponentsDependency, caller: CallerDependency
) -> Response:
    """Compares the photograph with a second one (`reference`) or with an enrolled subject (`subject_id`).

    The threshold follows from `target_fmr`, the highest false match rate that you accept, in every measured group of
    people unless `claim` says otherwise; or from `max_distance` or `min_similarity`. The answer says how often two
    different people are as near as these two faces. After five failures in a row a subject has to wait.
    """
    service, lockout = components.recognition, components.lockout
    caller.require_collection(body.collection)
    policy, requested = body.face_policy, body.requested()

    def compare() -> Verification:
        if body.reference is not None:
            return service.verify(
                body.image, body.reference, face_policy=policy, requested=requested, collection=body.collection
            )
        assert body.subject_id is not None
        with lockout.attempt(body.collection, body.subject_id) as attempt:
            result = service.verify_subject(
                body.image, body.collection, body.subject_id, face_policy=policy, requested=requested
            )
            # By the collection's own targets: a request that asks for a loose threshold resets nothing.
            matched = result.outcome.decision is Decision.MATCH
            attempt.matched = matched and service.is_match(body.collection, result)
        return result

    def answer() -> tuple[Verification, str]:
        result = compare()
        with stage(SERIALISE):
            return result, presenters.verification(result, service.encoder, service.calibration).model_dump_json()

    async with components.recorded(request, "verify", body.collection, body.subject_id, decision=True) as outcome:
        result, content = await components.admission.run(request, answer)
        outcome.value = result.outcome.decision
        outcome.details = presenters.versions(service.encoder, service.calibration)
    components.metrics.decided("verify", result.outcome, result.compared.distance)
    return _answer(content)


@router.post(
    "/identify",
    dependencies=[allow(Scope.IDENTIFY)],
    response_model=schemas.IdentifyResponse,
    summary="Who is this?",
    openapi_extra=openapi_body(schemas.IdentifyRequest),
    responses=problems(*FACE_CODES, "too_many_faces", "too_many_candidates", "target_unsupported"),
)
async def identify(
    request: Request, body: IdentifyBody, components: ComponentsDependency, caller: CallerDependency
) -> Response:
    """Searches a collection; returns one candidate per subject, best first, each with its own decision.

    The threshold follows from `target_fpir`, the highest share of searches for people who are not enrolled that may
    return a match, and from the number of subjects; or from `max_distance` or `min_similarity`. Who a candidate is that
    does not match is shown only to keys with the scope `read`.
    """
    service = components.recognition
    caller.require_collection(body.collection)

    def answer() -> tuple[Identification, str]:
        result = service.identify(
            body.image, body.collection, body.top_k, face_policy=body.face_policy, requested=body.requested()
        )
        with stage(SERIALISE):
            out = presenters.identification(
                result,
                service.encoder,
                service.calibration,
                # By the collection's own targets: a request that asks for a loose threshold learns no names by it.
                shown_by=None if caller.may(Scope.READ) else service.search_policy(body.collection),
            )
            return result, out.model_dump_json()

    async with components.recorded(request, "identify", body.collection, decision=True) as outcome:
        result, content = await components.admission.run(request, answer)
        first = result.faces[0]
        # By subject: one person may be in the photograph more than once, as beside a mirror.
        matched = [face.candidates[0].subject_id for face in result.faces if face.outcome.decision is Decision.MATCH]
        found = list(dict.fromkeys(matched))
        outcome.value = Decision.MATCH if found else first.outcome.decision
        outcome.details = presenters.versions(service.encoder, service.calibration)
        if found:
            outcome.subject = found[0]
        if len(found) > 1:
            also = [components.trail.name_of(body.collection, subject_id) for subject_id in found[1:]]
            outcome.details[ALSO] = ",".join(also)
    nearest = first.candidates[0].distance if first.candidates else None
    components.metrics.decided("identify", first.outcome, nearest)
    return _answer(content)


@router.post(
    "/detect",
    dependencies=[allow(Scope.ENROLL, Scope.VERIFY, Scope.IDENTIFY)],
    response_model=schemas.DetectResponse,
    summary="Find faces and measure their quality",
    openapi_extra=openapi_body(schemas.DetectRequest),
    responses=problems(*BODY_CODES, *IMAGE_CODES, "too_many_faces", "degenerate_landmarks"),
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
