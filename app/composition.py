"""The components of the service and of commands, built from the settings; no HTTP, which `app.main` adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import cast

import cv2

from app.crowding import Crowding, load_crowding
from app.decisions import Calibration, load_calibration, read_calibration
from app.embeddings import MOST_FUSED
from app.encoding import EncoderRuntime, EncoderWeights, create_runtime, load_weights
from app.errors import TesseraError
from app.faces import DecodeLimits, DetectorSettings, FaceFinder, QualityLimits, WorkLimits, YunetDetector
from app.gallery import Gallery, GalleryUnavailable, SqliteGallery
from app.gallery.sqlite.snapshot import GalleryCopy
from app.gallery.sqlite.vault import VAULT_NAME, FileKeyWrapper, KeyWrapper, Vault, load_wrapper
from app.recognition.criteria import Criteria
from app.recognition.service import RecognitionService
from app.security.errors import SecurityStoreUnavailable
from app.security.keys import Authenticator
from app.security.lockout import Lockout
from app.security.rates import LocalRateLimits, RateLimits
from app.security.store import SecurityStore
from app.settings import Settings

SHORTEST_ADMIN_KEY = 32

THREADS_A_CORE = 2
"""While some threads wait for the encoder, others decode photographs and detect faces."""


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """An encoder with the calibration and the crowding that belong to it; nothing is compiled yet."""

    weights: EncoderWeights
    calibration: Calibration
    crowding: Crowding

    @property
    def most_fused(self) -> int:
        """How many templates of a subject are compared at most: rates of more were not measured."""
        return min(self.calibration.most_templates, MOST_FUSED)


def load_encoder_files(settings: Settings) -> EncoderFiles:
    """Reads and checks the encoder's files. Raises TesseraError, with a message for the operator."""
    directory, own = settings.encoding.directory, settings.decisions.calibration
    weights = load_weights(directory)
    calibration = load_calibration(directory, weights.sha256) if own is None else read_calibration(own, weights.sha256)
    return EncoderFiles(weights, calibration, load_crowding(directory, calibration.cohort_sha256))


def open_gallery(
    settings: Settings, encoder_sha256: str, crowding: Crowding, most_fused: int = MOST_FUSED, *, serves: bool = True
) -> Gallery:
    """The gallery in PostgreSQL if the settings name one, else that of the data directory.

    serves: as a service, whose encoder and calibration the gallery takes. Raises GalleryError.
    """
    chosen = settings.gallery
    if chosen.url is not None:
        gallery = postgres_part("gallery.postgres.gallery").PostgresGallery(
            chosen.url.get_secret_value(),
            encoder_digest=encoder_sha256,
            crowding=crowding,
            most_fused=most_fused,
            read_url=None if chosen.read_url is None else chosen.read_url.get_secret_value(),
            connections=chosen.connections,
            index=postgres_part("gallery.postgres.search").IndexUse(
                chosen.search_exact_up_to, chosen.search_breadth, audit_seconds=chosen.search_audit_seconds or None
            ),
            rebinds=serves,
        )
        return cast(Gallery, gallery)
    return SqliteGallery(
        settings.gallery.data_dir,
        encoder_digest=encoder_sha256,
        crowding=crowding,
        most_fused=most_fused,
        keys=open_vault(settings),
    )


def open_beside(settings: Settings, encoder_sha256: str, crowding: Crowding, most_fused: int = MOST_FUSED) -> Gallery:
    """As ``open_gallery``, for a command: the gallery of services that compute otherwise is refused."""
    return open_gallery(settings, encoder_sha256, crowding, most_fused, serves=False)


def open_copy(settings: Settings, encoder_sha256: str, crowding: Crowding, most_fused: int = MOST_FUSED) -> Gallery:
    """What is in the gallery, for reading; services may be using it. Raises GalleryError."""
    if settings.gallery.url is not None:
        return open_beside(settings, encoder_sha256, crowding, most_fused)
    keys = open_vault(settings, create=False)
    return GalleryCopy(
        settings.gallery.data_dir, encoder_digest=encoder_sha256, crowding=crowding, most_fused=most_fused, keys=keys
    )


def no_gallery(settings: Settings, encoder_sha256: str, crowding: Crowding, most_fused: int) -> GalleryCopy:  # noqa: ARG001
    """An empty gallery, in memory, for what needs none; the data directory is not touched."""
    return GalleryCopy(None, encoder_digest=encoder_sha256, crowding=crowding, most_fused=most_fused)


def postgres_part(name: str) -> ModuleType:
    """A module of ``app`` that needs the packages of an extra. Raises GalleryUnavailable without them."""
    try:
        return import_module(f"app.{name}")
    except ImportError as error:
        raise GalleryUnavailable(
            f"gallery.url is set, but {error.name} is not installed: pip install 'tessera-face[postgres]'."
        ) from error


def open_vault(settings: Settings, *, create: bool = True) -> Vault | None:
    """The keys of encrypted templates; None if they are not encrypted, or, unless ``create``, if there are none yet.

    Raises GalleryError.
    """
    chosen = settings.gallery
    if not create and not (chosen.data_dir / VAULT_NAME).exists():
        return None
    wrapper = open_wrapper(settings)
    return None if wrapper is None else Vault(chosen.data_dir, wrapper)


def open_wrapper(settings: Settings) -> KeyWrapper | None:
    """What wraps the keys of templates; None if they are not encrypted. Raises EncryptionKeyMissing."""
    chosen = settings.gallery
    if chosen.key_wrapper is not None:
        return load_wrapper(chosen.key_wrapper)
    return None if chosen.master_key_file is None else FileKeyWrapper(chosen.master_key_file)


@contextmanager
def opened_vault(settings: Settings, *, create: bool = False) -> Iterator[Vault | None]:
    """The keys of encrypted templates, for one command; ``create``: it may be the first to encrypt any."""
    keys = open_vault(settings, create=create)
    try:
        yield keys
    finally:
        if keys is not None:
            keys.close()


def build_encoder(settings: Settings, weights: EncoderWeights) -> EncoderRuntime:
    """The encoder, run as the settings specify. Raises WeightsError."""
    encoding = settings.encoding
    return create_runtime(weights, runtime=encoding.runtime, precision=encoding.precision, threads=encoding.threads)


def build_finder(settings: Settings) -> FaceFinder:
    """The face finder, with the limits from the settings."""
    # OpenCV's own threads would only compete: every core already has a request to work on.
    cv2.setNumThreads(1)
    faces = settings.faces
    return FaceFinder(
        YunetDetector(DetectorSettings(score_threshold=faces.detection_threshold)),
        DecodeLimits(max_bytes=faces.max_image_bytes, max_pixels=faces.max_image_pixels),
        QualityLimits(min_eye_distance=faces.min_eye_distance),
        max_faces=faces.max_faces,
    )


OpenGallery = Callable[[Settings, str, Crowding, int], Gallery]
"""Opens a gallery for the encoder with a digest, with its crowding and the most templates of a subject to compare."""


def build_service(settings: Settings, open_gallery: OpenGallery = open_gallery) -> RecognitionService:
    """Loads encoder and calibration and opens the gallery.

    Raises TesseraError, with a message for the operator, if one of them cannot be used.
    """
    files, decisions = load_encoder_files(settings), settings.decisions
    criteria = Criteria(
        files.calibration,
        target_fmr=decisions.target_fmr,
        target_fpir=decisions.target_fpir,
        claim=decisions.claim,
    )
    faces = settings.faces
    with ThreadPoolExecutor(max_workers=2) as pool:
        # Compiling runs outside of Python's lock, reading the gallery inside it: side by side they take less time.
        encoder = pool.submit(build_encoder, settings, files.weights)
        finder = pool.submit(build_finder, settings)
        gallery = open_gallery(settings, files.weights.sha256, files.crowding, files.most_fused)
    try:
        service = RecognitionService(
            finder.result(),
            encoder.result(),
            gallery,
            criteria,
            crowding=files.crowding,
            enforce_quality=faces.enforce_quality,
            inconclusive=decisions.inconclusive,
            work_limits=WorkLimits(max_pixels=faces.max_request_pixels, max_seconds=faces.max_request_seconds),
        )
        service.warm_up()
        return service
    except TesseraError:
        gallery.close()
        raise


def open_security(settings: Settings, *, create: bool = True, any_secret: bool = False) -> SecurityStore:
    """Keys and audit trail, where the gallery is. Raises SecurityStoreUnavailable.

    Args:
        settings: say where, and with which secret.
        create: begin them where there are none.
        any_secret: look at a trail in a data directory even if another secret sealed it.
    """
    directory, secret_file, url = settings.gallery.data_dir, settings.security.secret_file, settings.gallery.url
    if url is None:
        return SecurityStore(directory, secret_file, create=create, any_secret=any_secret)
    store = postgres_part("security.postgres").PostgresSecurityStore
    return cast(SecurityStore, store(url.get_secret_value(), directory, secret_file, create=create))


def open_lockout(settings: Settings, store: SecurityStore) -> Lockout:
    """Failed verifications, counted where the keys are. Raises SecurityStoreUnavailable."""
    kind = Lockout if settings.gallery.url is None else postgres_part("security.postgres").SharedLockout
    return cast(Lockout, kind(store, enabled=settings.security.lockout))


def open_rates(settings: Settings, store: SecurityStore) -> RateLimits:
    """Rates of requests, counted where the keys are."""
    if settings.gallery.url is None:
        return LocalRateLimits()
    return cast(RateLimits, postgres_part("security.shared_rates").SharedRateLimits(store))


def build_authenticator(settings: Settings, store: SecurityStore) -> Authenticator:
    """The keys that are accepted. Raises SecurityStoreUnavailable, also for an admin key file without a key."""
    path = settings.security.admin_key_file
    if path is None:
        return Authenticator(store)
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SecurityStoreUnavailable(f"The admin key file {path} cannot be read: {error}.") from error
    if len(key) < SHORTEST_ADMIN_KEY:
        raise SecurityStoreUnavailable(
            f"The key in {path} is too short to be safe: at least {SHORTEST_ADMIN_KEY} characters, such as from "
            "`openssl rand -hex 32`."
        )
    return Authenticator(store, admin_key=key)
