"""Every setting, nested by package, read from ``TESSERA_*`` variables; combinations that cannot work are refused."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from app import addresses
from app.decisions import Claim
from app.encoding import Precision, RuntimeName
from app.gallery.sqlite.database import DATABASE_NAME
from app.logs import LogFormat, LogLevel
from app.security.rates import RATE_PATTERN
from app.variables import unknown_variables

MEBIBYTE = 1024 * 1024
DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "model" / "weights"
FORMER_DATA_DIR = Path("data")
"""The default of the first release: another folder wherever one started it."""


def default_data_dir() -> Path:
    """``tessera`` in the user's folder for data (XDG Base Directory Specification), wherever one stands.

    Raises SettingsError where it is unknown, or where a gallery lies in what was the default before.
    """
    shared = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        # The specification has relative paths ignored.
        chosen = (shared if shared.is_absolute() else Path.home() / ".local" / "share") / "tessera"
    except RuntimeError as error:
        raise SettingsError(
            "This user has no home directory, so there is no default data directory: set TESSERA_GALLERY__DATA_DIR."
        ) from error
    if (FORMER_DATA_DIR / DATABASE_NAME).exists():
        former = FORMER_DATA_DIR.resolve()
        raise SettingsError(
            f"There is a gallery in {former}, which was the default data directory of the first release; the default "
            f"is {chosen} now. To go on with it, name it (--data-dir or TESSERA_GALLERY__DATA_DIR) or move the whole "
            f"folder to {chosen}. To leave it alone, name another one, or start from another folder."
        )
    return chosen


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    """Where the service listens and how much it accepts."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose one")
    max_body_bytes: PositiveInt = Field(default=32 * MEBIBYTE, description="largest request body, bytes")
    max_bytes_in_flight: PositiveInt = Field(
        default=256 * MEBIBYTE, description="bytes of request bodies held at once; more get 503"
    )
    max_header_bytes: PositiveInt = Field(default=32 * 1024, description="largest headers of a request, bytes")
    max_connections: PositiveInt = Field(default=1000, description="connections open at once; more get 503")
    header_seconds: float = Field(default=10, gt=0, description="time for the headers of a request, seconds")
    body_seconds: float = Field(default=120, gt=0, description="time for the body of a request, seconds")
    min_body_rate: PositiveInt = Field(
        default=4096, description="slowest body, bytes a second over 5 s; slower ones get 408"
    )
    max_images: PositiveInt = Field(default=16, description="most photographs in one request")
    max_metadata_bytes: PositiveInt = Field(
        default=16 * 1024, description="largest metadata of a subject, bytes of JSON"
    )
    threads: int = Field(
        default=0, ge=0, description="requests with photographs processed at once; 0: two for each core"
    )
    max_waiting: int = Field(
        default=256, ge=0, description="requests with photographs that may wait for a thread; more get 503"
    )
    request_seconds: float = Field(
        default=30, gt=0, description="how long a request may wait for a thread, seconds; then it gets 503"
    )
    graceful_seconds: PositiveInt = Field(
        default=20, description="time that requests have to finish when the service stops, seconds"
    )
    allowed_hosts: str = Field(
        default="",
        description="names in the Host header that are answered, without a port, separated by commas, besides "
        "addresses, `localhost` and names without a dot; * for all",
    )
    cors_origins: str = Field(
        default="",
        description="origins of web pages that may send requests, separated by commas, such as https://desk.example",
    )
    trusted_proxies: str = Field(
        default="",
        description="addresses or networks of reverse proxies, separated by commas, such as 10.1.0.0/16, whose "
        "X-Forwarded-For and -Proto are believed",
    )
    root_path: str = Field(
        default="", pattern=r"^(/[\w.~-]+)*$", description="prefix that a reverse proxy removes, such as /faces"
    )
    page: bool = Field(
        default=True, description="serve the page for people at `/`; without it `/` leads to the documentation"
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the certificate chain, to serve HTTPS"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with its private key")
    log_format: LogFormat = Field(
        default=LogFormat.TEXT, description="how the log is written: text, or json for one object a line"
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO,
        description="what is logged: info (every request but successful probes), warning (failures of the service), "
        "error",
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, text: str) -> str:
        return addresses.each(text, addresses.allowed_host)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, text: str) -> str:
        return addresses.each(text, addresses.origin)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, text: str) -> str:
        return addresses.each(text, addresses.network)

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines reach the service, directly or through a proxy that the settings speak of."""
        if self.trusted_proxies or self.root_path or self.allowed_hosts:
            return True
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"


class FacesSettings(_Section):
    """What is accepted as a photograph and as a face."""

    max_image_bytes: PositiveInt = Field(default=16 * MEBIBYTE, description="largest photograph, bytes")
    max_image_pixels: PositiveInt = Field(default=50_000_000, description="largest photograph, pixels")
    max_request_pixels: PositiveInt = Field(
        default=200_000_000,
        description="most pixels in the photographs of one request together; large JPEGs count as they are decoded, "
        "reduced",
    )
    max_request_seconds: float = Field(
        default=10, gt=0, description="longest work on the photographs of one request, seconds"
    )
    max_faces: PositiveInt = Field(
        default=64, description="most faces in one photograph, for /detect and for face_policy all"
    )
    detection_threshold: float = Field(default=0.6, gt=0, lt=1, description="lowest detector confidence of a face")
    min_eye_distance: float = Field(default=16, ge=0, description="smallest distance between the eyes, pixels")
    enforce_quality: bool = Field(
        default=True, description="refuse to enrol a face whose quality is outside the limits"
    )


class EncodingSettings(_Section):
    """Which encoder runs, and how."""

    encoder: str = Field(
        default="tessera-l",
        pattern=r"^\w[\w.-]*$",
        description="tessera-l (accurate), tessera-m (fast, small), tessera-s (fastest)",
    )
    weights: Path = Field(default=DEFAULT_WEIGHTS, description="folder with a folder for each encoder")
    runtime: RuntimeName = Field(default=RuntimeName.OPENVINO, description="openvino or onnxruntime")
    precision: Precision = Field(default=Precision.AUTO, description="auto, bf16, int8 or f32")
    threads: int = Field(
        default=0,
        ge=0,
        description="runs of the encoder at once, a thread each; 0: one for each core available",
    )

    @property
    def directory(self) -> Path:
        """The directory of the chosen encoder's files."""
        return self.weights / self.encoder


class DecisionsSettings(_Section):
    """The criteria for a match unless a request sets them."""

    calibration: Path | None = Field(
        default=None, description="a table of your own from `tessera calibrate`; the one beside the encoder if not set"
    )
    target_fmr: float | None = Field(
        default=None, gt=0, lt=1, description="false match rate of /verify; the calibration's default if not set"
    )
    target_fpir: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="false positive identification rate of /identify; the calibration's default if not set",
    )
    claim: Claim = Field(
        default=Claim.EVERY_GROUP,
        description="for whom these rates hold: every_group (each group of people that was measured) or pooled (the "
        "average over all pairs)",
    )
    inconclusive: bool = Field(default=True, description="answer inconclusive where it applies; else no_match")


class GallerySettings(_Section):
    """Where templates are kept."""

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="folder of the database; one process at a time. Not set: `tessera` in `$XDG_DATA_HOME` or in "
        "`~/.local/share`",
    )
    url: SecretStr | None = Field(
        default=None,
        description="postgresql://... of a database with pgvector that keeps templates, keys and the audit trail "
        "instead of the data directory, for several replicas; give the password in PGPASSFILE or PGPASSWORD",
    )
    read_url: SecretStr | None = Field(
        default=None,
        description="postgresql://... of a standby that searches are sent to; they may miss what was written last",
    )
    connections: PositiveInt = Field(default=16, description="most connections to PostgreSQL of one replica")
    search_exact_up_to: NonNegativeInt = Field(
        default=30_000,
        description="PostgreSQL only: collections of at most so many subjects are compared one by one, larger ones "
        "searched by the index, which is faster and misses some",
    )
    search_breadth: int = Field(
        default=400,
        ge=40,
        le=1000,
        description="PostgreSQL only: candidates that the index keeps in a search of a large collection "
        "(hnsw.ef_search); more miss fewer people and take longer",
    )
    search_audit_seconds: float = Field(
        default=60,
        ge=0,
        description="PostgreSQL only: how far apart searches of large collections are audited, seconds; 0: never",
    )
    master_key_file: Path | None = Field(
        default=None,
        description="file with a master key, 64 hexadecimal digits: templates are encrypted at rest; keep it elsewhere",
    )
    key_wrapper: str | None = Field(
        default=None,
        pattern=r"^[\w.]+:\w+$",
        description="instead of such a file, package.module:function of your own that returns a key wrapper, such as "
        "one that asks a key management service",
    )
    report_duplicates: bool = Field(
        default=True, description="on enrolment, look for the same face under another subject"
    )


class SecuritySettings(_Section):
    """Who may call, how often, and what is recorded."""

    allow_anonymous: bool = Field(
        default=False,
        description="requests without a key may do everything, on any address; without it they may on loopback while "
        "there are no keys",
    )
    admin_key_file: Path | None = Field(
        default=None, description="file with a key for everything, such as a secret of the container platform"
    )
    secret_file: Path | None = Field(
        default=None,
        description="what keys are hashed with and ids hidden by; secret.key in the data directory if not set",
    )
    key_rate: str | None = Field(
        default=None,
        pattern=RATE_PATTERN,
        description="most requests of one key that has no rate of its own, such as 600/minute",
    )
    address_rate: str | None = Field(
        default=None, pattern=RATE_PATTERN, description="most requests of one address, such as 600/minute"
    )
    failed_key_rate: str = Field(
        default="30/minute", pattern=RATE_PATTERN, description="most wrong keys from one address"
    )
    lockout: bool = Field(
        default=True, description="after five failed verifications of a subject in a row the next ones have to wait"
    )
    audit_decisions: bool = Field(
        default=True,
        description="record verifications and searches in the audit trail, their failures included, not only changes",
    )
    audit_days: int = Field(
        default=365, ge=1, le=36_500, description="how long the audit trail is kept, days; 36500 at most"
    )
    audit_plain_ids: bool = Field(
        default=False,
        description="write the ids of subjects in the audit trail; pseudonyms if not, so that it names nobody erased",
    )


class Settings(BaseSettings):
    """All sections. ``TESSERA_SERVER__PORT=9000`` sets ``server.port``."""

    model_config = SettingsConfigDict(
        env_prefix="TESSERA_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    server: ServerSettings = ServerSettings()
    faces: FacesSettings = FacesSettings()
    encoding: EncodingSettings = EncodingSettings()
    decisions: DecisionsSettings = DecisionsSettings()
    # Not when this module is imported: the data directory depends on the user.
    gallery: GallerySettings = Field(default_factory=GallerySettings)
    security: SecuritySettings = SecuritySettings()

    @model_validator(mode="before")
    @classmethod
    def _known_variables(cls, values: Any) -> Any:
        prefix = str(cls.model_config["env_prefix"])
        if unknown := unknown_variables(os.environ, prefix, variable_names()):
            raise ValueError(" ".join(unknown))
        if empty := [name for name in _needing_a_value() if os.environ.get(name) == ""]:
            raise ValueError(
                f"{' and '.join(empty)} without a value: give one, or remove the variable for the default."
            )
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.faces.max_image_bytes > self.server.max_body_bytes:
            raise ValueError("faces.max_image_bytes is above server.max_body_bytes: no such photograph could arrive")
        if self.server.max_body_bytes > self.server.max_bytes_in_flight:
            raise ValueError("server.max_body_bytes is above server.max_bytes_in_flight: no such body could be held")
        if self.gallery.master_key_file is not None and self.gallery.key_wrapper is not None:
            raise ValueError("gallery.master_key_file and gallery.key_wrapper exclude each other")
        if self.gallery.url is not None and (self.gallery.master_key_file or self.gallery.key_wrapper):
            raise ValueError(
                "gallery.url excludes gallery.master_key_file and gallery.key_wrapper: templates in PostgreSQL are not "
                "encrypted by the service, since the database itself compares them; encrypt its disk (docs/adr/0010)"
            )
        if self.gallery.read_url is not None and self.gallery.url is None:
            raise ValueError("gallery.read_url goes with gallery.url")
        for url in (self.gallery.url, self.gallery.read_url):
            if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
                raise ValueError("gallery.url and gallery.read_url begin with postgresql://")
        if (self.server.tls_certificate is None) != (self.server.tls_key is None):
            raise ValueError("server.tls_certificate and server.tls_key go together")
        if self.faces.max_image_pixels > self.faces.max_request_pixels:
            raise ValueError(
                "faces.max_image_pixels is above faces.max_request_pixels: such a photograph costs too much"
            )
        return self


def variable_names() -> frozenset[str]:
    """The names of all variables that set something: ``TESSERA_SERVER__PORT``, or ``TESSERA_SERVER`` with JSON."""
    return frozenset(variable_name(section) for section in Settings.model_fields) | _by_variable().keys()


def variable_name(*location: str) -> str:
    """The variable that sets a section, or a setting of one."""
    config = Settings.model_config
    return str(config["env_prefix"]) + str(config["env_nested_delimiter"]).join(location).upper()


def described(section: str, name: str) -> str:
    """What a setting means."""
    return _by_variable()[variable_name(section, name)].description or ""


def _by_variable() -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for section, field in Settings.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        found |= {variable_name(section, name): own for name, own in field.annotation.model_fields.items()}
    return found


def _needing_a_value() -> list[str]:
    """Variables that mean nothing if they are empty, such as a path: as one it would be the folder one stands in."""
    return sorted(name for name, field in _by_variable().items() if field.default != "")


def listed(text: str) -> frozenset[str]:
    """The items of a setting that are separated by commas."""
    return frozenset(item.strip() for item in text.split(",") if item.strip())
