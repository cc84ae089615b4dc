"""Why each error happens and what to do about it: what ``docs/errors.md`` is written from."""

from __future__ import annotations

from typing import NamedTuple

from app.faces import FORMATS


class Remedy(NamedTuple):
    """What brings an error about, and what ends it."""

    cause: str
    cure: str


REMEDIES: dict[str, Remedy] = {
    "empty_image": Remedy("The part or field of the photograph has no bytes.", "Send the file itself, not its name."),
    "unsupported_image_format": Remedy(
        "The first bytes are of none of the formats taken; file name and content type do not count.",
        f"Convert it to {FORMATS}. [HEIC](faq.md).",
    ),
    "animated_image": Remedy("The file has several frames.", "Send one frame as a picture of its own."),
    "truncated_image": Remedy("The file ends before its picture does.", "Send all of it; look at the upload's size."),
    "corrupt_image": Remedy(
        "The file's structure or its data cannot be decoded, or it hides more work than a photograph needs.",
        "Open it with an image editor and save it anew.",
    ),
    "image_too_large": Remedy(
        "More bytes or pixels than `TESSERA_FACES__MAX_IMAGE_BYTES` or `TESSERA_FACES__MAX_IMAGE_PIXELS`.",
        "Scale it down: a face needs some 112 pixels. Raise the limit only with memory to match.",
    ),
    "image_too_small": Remedy("A side has too few pixels for a face.", "Send the original, not its thumbnail."),
    "no_face": Remedy(
        "The detector found no face: too small, turned away, covered, or too dark.",
        "Take one nearer and from the front; see what is found with `POST /detect`.",
    ),
    "multiple_faces": Remedy(
        "Several faces with `face_policy=single`, or none clearly larger than the others with `dominant`.",
        "Crop to one person, or send `face_policy=largest`.",
    ),
    "too_many_faces": Remedy(
        "More faces than `TESSERA_FACES__MAX_FACES`, with `face_policy=all` or at `/detect`.", "Crop the photograph."
    ),
    "too_much_work": Remedy(
        "The photographs of the request cost more than `TESSERA_FACES__MAX_REQUEST_PIXELS` or `_SECONDS`.",
        "Send fewer or smaller photographs in one request.",
    ),
    "too_many_candidates": Remedy("`top_k` times the number of faces is too large.", "Ask for a smaller `top_k`."),
    "degenerate_landmarks": Remedy(
        "The landmarks of the face coincide, so it cannot be aligned; what was found is hardly a face.",
        "Send another photograph.",
    ),
    "low_quality": Remedy(
        "The face is blurred, turned away, too small, too dark or too bright to enrol.",
        "Take another one, as the detail says; `TESSERA_FACES__ENFORCE_QUALITY=false` lets poor ones in, which "
        "are then recognised worse.",
    ),
    "no_usable_image": Remedy("None of several photographs gave a face.", "`failures` has the code of each."),
    "face_policy_not_allowed": Remedy("`face_policy=all` at `/enroll`: a subject is one person.", "Use another one."),
    "target_unsupported": Remedy(
        "The target is lower than the calibration's measurement can vouch for.",
        "Ask for a rate that it can; [why](decisions.md).",
    ),
    "invalid_request": Remedy(
        "Fields or query parameters are missing, unknown, repeated or out of range, or a body is where none is read.",
        "`errors` names each and its rule.",
    ),
    "malformed_body": Remedy(
        "The body is neither the form nor the JSON that its content type announces, or its JSON has a name twice.",
        "Let a library write it.",
    ),
    "unsupported_media_type": Remedy(
        "The body's content type is none of those taken.", "Send `multipart/form-data` or `application/json`."
    ),
    "body_too_large": Remedy(
        "More bytes than `TESSERA_SERVER__MAX_BODY_BYTES`; where no photograph belongs, than 16 KiB and six times "
        "`TESSERA_SERVER__MAX_METADATA_BYTES`.",
        "Send fewer or smaller photographs in one request; less metadata.",
    ),
    "too_many_images": Remedy(
        "More photographs than `TESSERA_SERVER__MAX_IMAGES`.", "Enrol in several requests with `on_conflict=append`."
    ),
    "idempotency_key_reused": Remedy(
        "The `Idempotency-Key` was sent with other content within 24 hours.", "A new key for each new request."
    ),
    "idempotency_conflict": Remedy(
        "A request with this `Idempotency-Key` is under way.", "Send it again; the answer is then the first one's."
    ),
    "collection_not_found": Remedy("No collection has this id, or it was erased.", "Create it, or look at the id."),
    "collection_exists": Remedy("A collection has this id already.", "Use it, or take another id."),
    "collection_not_empty": Remedy("The collection has subjects.", "`force=true` erases them with it."),
    "audit_not_found": Remedy("The collection was not audited, or all it told of was erased.", "Start an audit."),
    "audit_not_done": Remedy(
        "The audit is under way, failed or was interrupted: `audit_status` says which.", "Wait, or start it again."
    ),
    "subject_not_found": Remedy("No subject has this id in this collection.", "Look at both; enrol first."),
    "subject_exists": Remedy(
        "The subject is enrolled, and `on_conflict` is `reject`.", "Use `append` or `replace` if that is meant."
    ),
    "subjects_not_alike": Remedy(
        "Two subjects that are to be merged are farther apart than the default threshold.",
        'Make sure that they are one person; `"force": true` merges them then, and it cannot be undone.',
    ),
    "template_not_found": Remedy("The subject has no template with this id.", "`GET` the subject for its templates."),
    "last_template": Remedy("It is the subject's only template.", "Delete the subject, or enrol another one first."),
    "unauthenticated": Remedy(
        "No key, or one that is unknown, expired or revoked.",
        "Send `Authorization: Bearer tessera_...`; `tessera keys list` shows those that count.",
    ),
    "forbidden": Remedy(
        "The key lacks the scope or the collection.", "Use one that has it; [scopes](security.md#keys)."
    ),
    "cross_origin": Remedy(
        "A web page of another origin sent the request.", "Name the origin in `TESSERA_SERVER__CORS_ORIGINS`."
    ),
    "unknown_host": Remedy(
        "The `Host` header has a name that the service was not told of.",
        "Name it in `TESSERA_SERVER__ALLOWED_HOSTS`.",
    ),
    "rate_limited": Remedy(
        "More requests than the rate of the key or the address, or too many wrong keys.",
        "Wait as long as `Retry-After` says; raise the rate if the client is honest.",
    ),
    "locked_out": Remedy(
        "Verifications of this subject failed five times in a row, or more; those under way count.",
        "Wait as long as `Retry-After` says; ask who tries. [Why](security.md#keys).",
    ),
    "security_store_unavailable": Remedy(
        "`security.sqlite3` or `secret.key` is missing, damaged, another one, locked or cannot be written: nothing is "
        "done unseen.",
        "The detail says which. Make room on the disk, end what holds it, or restore both files.",
    ),
    "too_many_templates": Remedy("The subject has as many templates as it may.", "Delete some, or `replace` them."),
    "overloaded": Remedy(
        "As many requests wait as may, or their bodies fill the memory for them, or too many connections are open.",
        "Try again after `Retry-After`; if it lasts, more cores ([sizing](operate.md#sizing)).",
    ),
    "deadline_exceeded": Remedy(
        "The request waited for `TESSERA_SERVER__REQUEST_SECONDS`, or for the time it asked for itself.",
        "As for `overloaded`.",
    ),
    "gallery_unavailable": Remedy(
        "The database cannot be read or written: locked, full disk, files removed or replaced, damage.",
        "The detail and the log say which; [what to do](operate.md#keeping-what-is-enrolled).",
    ),
    "template_damaged": Remedy(
        "A stored template is not what was stored.",
        "Enrol the subject again with `on_conflict=replace`, erase it, or restore a backup. Suspect the disk.",
    ),
    "subject_damaged": Remedy(
        "The stored record of a subject cannot be read.", "Replace its metadata, erase it, or restore a backup."
    ),
    "backup_failed": Remedy(
        "A backup or an export cannot be written, read or put in place; nothing was changed.", "The detail says why."
    ),
    "gallery_in_use": Remedy(
        "Another process has the data directory open.", "Stop that process, whose id the detail has, or take another."
    ),
    "encryption_key_missing": Remedy(
        "Templates are encrypted, and the master key or the file of keys is missing or another one.",
        "Set `TESSERA_GALLERY__MASTER_KEY_FILE` to the right one. Without it the templates are lost.",
    ),
    "chips_need_encryption": Remedy(
        "`keep_chips` where templates are not encrypted: a chip is a picture of a face.",
        "Set `TESSERA_GALLERY__MASTER_KEY_FILE`, or leave `keep_chips` out.",
    ),
    "encoder_mismatch": Remedy(
        "The data directory holds templates of another encoder.",
        "Run that encoder, or enrol anew into another directory; [how](operate.md#changing-the-encoder).",
    ),
    "encoder_weights_invalid": Remedy(
        "The encoder's files are missing, damaged or not of this format.",
        "Look at `TESSERA_ENCODING__WEIGHTS` and `__ENCODER`; install anew.",
    ),
    "calibration_invalid": Remedy(
        "The calibration is missing, damaged or of another encoder.",
        "Look at `TESSERA_DECISIONS__CALIBRATION`; make it with `tessera calibrate` and this encoder.",
    ),
    "cohort_invalid": Remedy("The cohort is not the one of the calibration.", "Take both from the same release."),
    "detector_unavailable": Remedy("The detector's file is missing or damaged.", "Install anew."),
    "tracing_unavailable": Remedy(
        "`OTEL_EXPORTER_OTLP_ENDPOINT` is set, and what sends traces is not installed or speaks another protocol.",
        "`pip install 'tessera-face[otel]'`, `OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf`, or unset it.",
    ),
    "not_ready": Remedy(
        "`/readyz`: a part does not work.", "`checks`, asked with a key with `read`, says which and why."
    ),
    "not_found": Remedy(
        "No route has this path; one with a slash at its end is another path.",
        "Look at `/docs`, and at the proxy's prefix.",
    ),
    "method_not_allowed": Remedy("The path takes other methods.", "The `Allow` header has them."),
    "internal_error": Remedy(
        "A defect.", "The log has a traceback under the `request_id`: please report it, without what is private."
    ),
}

BEFORE_REQUESTS: dict[str, tuple[int, Remedy]] = {
    "request_timeout": (
        408,
        Remedy(
            "The request did not arrive in time or too slowly (`TESSERA_SERVER__HEADER_SECONDS`, `BODY_SECONDS`, "
            "`MIN_BODY_RATE`).",
            "Send it whole; a proxy that buffers requests helps slow clients.",
        ),
    ),
    "header_too_large": (431, Remedy("More than `TESSERA_SERVER__MAX_HEADER_BYTES`.", "Send fewer headers.")),
}
"""Refusals of connections, before there is a request: status and remedy."""
