from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from app.decisions import Claim
from app.encoding import Precision, RuntimeName
from app.settings import DEFAULT_WEIGHTS, EncodingSettings, FacesSettings, ServerSettings, Settings
from app.variables import MOST_NAMED


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "TESSERA_SERVER__PORT",
        "TESSERA_SERVER__HOST",
        "TESSERA_GALLERY__DATA_DIR",
        "TESSERA_ENCODING__PRECISION",
    ):
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_are_safe_and_usable() -> None:
    settings = Settings()
    assert settings.server.host == "127.0.0.1"
    assert settings.gallery.report_duplicates is True
    assert settings.faces.enforce_quality is True
    assert settings.decisions.claim is Claim.EVERY_GROUP
    assert settings.encoding.weights == DEFAULT_WEIGHTS
    assert (settings.encoding.directory / "encoder.onnx").is_file()


@pytest.mark.parametrize(
    ("shared", "parent"),
    [(None, "home/.local/share"), ("relative", "home/.local/share"), ("", "home/.local/share"), ("{}/xdg", "xdg")],
)
def test_the_data_directory_does_not_depend_on_where_one_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: str | None, parent: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if shared is None:
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_DATA_HOME", shared.format(tmp_path))
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        assert Settings().gallery.data_dir == tmp_path / parent / "tessera"


def test_a_gallery_where_it_was_before_is_neither_taken_nor_left_out_silently(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    Settings()
    (tmp_path / "data" / "gallery.sqlite3").touch()
    with pytest.raises(SettingsError, match="TESSERA_GALLERY__DATA_DIR") as refused:
        Settings()
    assert str(tmp_path / "data") in str(refused.value)
    monkeypatch.setenv("TESSERA_GALLERY__DATA_DIR", "data")
    assert Settings().gallery.data_dir == Path("data")


@pytest.mark.parametrize("name", ["", "../weights", "a/b", ".hidden"])
def test_an_encoder_is_a_name_and_not_a_path(name: str) -> None:
    with pytest.raises(ValidationError, match="encoder"):
        EncodingSettings(encoder=name)


def test_variables_set_every_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TESSERA_SERVER__PORT": "9000",
        "TESSERA_SERVER__MAX_BODY_BYTES": "20000000",
        "TESSERA_FACES__ENFORCE_QUALITY": "false",
        "TESSERA_FACES__DETECTION_THRESHOLD": "0.5",
        "TESSERA_ENCODING__RUNTIME": "onnxruntime",
        "TESSERA_ENCODING__PRECISION": "f32",
        "TESSERA_GALLERY__DATA_DIR": "/var/lib/tessera",
        "TESSERA_GALLERY__REPORT_DUPLICATES": "0",
        "TESSERA_DECISIONS__CLAIM": "pooled",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.server.port, settings.server.max_body_bytes) == (9000, 20_000_000)
    assert (settings.faces.enforce_quality, settings.faces.detection_threshold) == (False, 0.5)
    assert (settings.encoding.runtime, settings.encoding.precision) == (RuntimeName.ONNXRUNTIME, Precision.F32)
    assert (settings.gallery.data_dir, settings.gallery.report_duplicates) == (Path("/var/lib/tessera"), False)
    assert settings.decisions.claim is Claim.POOLED
    assert settings.server.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TESSERA_SERVER__PORT", "65536"),
        ("TESSERA_SERVER__PORT", "-1"),
        ("TESSERA_SERVER__MAX_IMAGES", "0"),
        ("TESSERA_FACES__DETECTION_THRESHOLD", "1"),
        ("TESSERA_FACES__MIN_EYE_DISTANCE", "-1"),
        ("TESSERA_FACES__ENFORCE_QUALITY", "perhaps"),
        ("TESSERA_ENCODING__PRECISION", "f16"),
        ("TESSERA_ENCODING__RUNTIME", "tflite"),
        ("TESSERA_ENCODING__THREADS", "-1"),
        ("TESSERA_DECISIONS__CLAIM", "everybody"),
        ("TESSERA_SECURITY__AUDIT_DAYS", "0"),
        ("TESSERA_SECURITY__AUDIT_DAYS", "36501"),
    ],
)
def test_values_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    room, field = variable.removeprefix("TESSERA_").lower().split("__")
    assert refused.value.errors()[0]["loc"] == (room, field)


def test_a_photograph_that_no_body_could_carry_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_image_bytes is above"):
        Settings(server=ServerSettings(max_body_bytes=1000), faces=FacesSettings(max_image_bytes=1001))
    same = Settings(server=ServerSettings(max_body_bytes=1000), faces=FacesSettings(max_image_bytes=1000))
    assert same.faces.max_image_bytes == same.server.max_body_bytes


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.server = ServerSettings()  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    for section in Settings.model_fields.values():
        assert isinstance(section.annotation, type)
        assert issubclass(section.annotation, BaseModel)
        for name, field in section.annotation.model_fields.items():
            assert field.description, name


def test_the_largest_photograph_must_fit_a_request() -> None:
    with pytest.raises(ValidationError, match="max_request_pixels"):
        Settings(faces=FacesSettings(max_image_pixels=1000, max_request_pixels=999))
    Settings(faces=FacesSettings(max_image_pixels=1000, max_request_pixels=1000))


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("TESSERA_SERVER__PROT", "TESSERA_SERVER__PORT"),
        ("TESSERA_SERVER_PORT", "TESSERA_SERVER__PORT"),
        ("TESSERA_PORT", "TESSERA_SERVER__PORT"),
        ("TESSERA_SEVER__HOST", "TESSERA_SERVER__HOST"),
        ("tessera_gallery_data_dir", "TESSERA_GALLERY__DATA_DIR"),
        ("TESSERA_DATA_DIR", "TESSERA_GALLERY__DATA_DIR"),
        ("TESSERA_SERVER__PORT__", "TESSERA_SERVER__PORT"),
    ],
)
def test_a_variable_that_sets_nothing_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, nearest: str
) -> None:
    monkeypatch.setenv(variable, "9000")
    with pytest.raises(ValidationError, match=f"{variable} is no setting; did you mean {nearest}[?]"):
        Settings()


def test_every_variable_that_sets_nothing_is_named_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        monkeypatch.setenv(f"TESSERA_XYZ{number}_0123456789", "1")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert refused.value.errors()[0]["msg"].count("is no setting; see docs/settings.md.") == MOST_NAMED


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TESSERA_TEST_DATA", "/data"),
        ("TESSERA_SERVER", '{"max_images": 3}'),
        ("tessera_server__max_images", "3"),
        ("TESSERA_SERVICE_HOST", "10.0.0.7"),
        ("TESSERA_SERVICE_PORT", "8000"),
        ("TESSERA_SERVICE_PORT_HTTP", "8000"),
        ("TESSERA_PORT", "tcp://10.0.0.7:8000"),
        ("TESSERA_PORT_8000_TCP", "tcp://10.0.0.7:8000"),
        ("TESSERA_PORT_8000_TCP_ADDR", "10.0.0.7"),
        ("TESSERA_FACES_SERVICE_HOST", "10.0.0.8"),
        ("TESSERA_FACES_PORT", "tcp://10.0.0.8:8000"),
        ("TESSERACT_HOME", "/usr"),
    ],
)
def test_variables_of_tests_and_of_container_platforms_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert Settings().server.max_images in {3, 16}


@pytest.mark.parametrize(
    ("gallery", "message"),
    [
        ({"url": "mysql://ada:word@db/tessera"}, "begin with postgresql"),
        ({"read_url": "postgresql://db/tessera"}, "goes with gallery.url"),
        ({"url": "postgresql://db/tessera", "master_key_file": "key"}, "not encrypted by the service"),
    ],
)
def test_a_database_that_cannot_be_used_as_asked_is_refused(gallery: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate({"gallery": gallery})


LISTS = [
    ("allowed_hosts", "Faces.Example, b.example.,", "faces.example,b.example"),
    ("allowed_hosts", "*", "*"),
    ("allowed_hosts", "10.0.0.7,[::1],FE80::A", "10.0.0.7,::1,fe80::a"),
    ("allowed_hosts", " ", ""),
    ("cors_origins", "https://Desk.Example, http://10.0.0.7:3000", "https://desk.example,http://10.0.0.7:3000"),
    ("cors_origins", "https://desk.example:443,http://desk.example:80", "https://desk.example,http://desk.example"),
    ("cors_origins", "http://desk.example:443,http://[0:0::1]:8080", "http://desk.example:443,http://[::1]:8080"),
    ("cors_origins", "chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ("trusted_proxies", "10.1.0.0/16, 192.0.2.7,2001:DB8::/32", "10.1.0.0/16,192.0.2.7,2001:db8::/32"),
]


@pytest.mark.parametrize(("setting", "given", "read"), LISTS)
def test_hosts_origins_and_proxies_are_read_as_requests_have_them(setting: str, given: str, read: str) -> None:
    server = ServerSettings.model_validate({setting: given})
    assert getattr(server, setting) == read
    assert getattr(ServerSettings.model_validate({setting: read}), setting) == read


@pytest.mark.parametrize(
    ("setting", "item"),
    [
        *(
            ("allowed_hosts", item)
            for item in (
                "https://faces.example",
                "faces.example:8000",
                "[::1]:8000",
                "faces.example/x",
                "*.example",
                "a b",
                "-a.example",
                "a..example",
                "bücher.example",
                "a" * 64,
            )
        ),
        *(
            ("cors_origins", item)
            for item in (
                "*",
                "null",
                "desk.example",
                "https://desk.example/",
                "https://desk.example/page",
                "https://*.example",
                "https://ada@desk.example",
                "https://desk.example:x",
                "https://desk.example:65536",
                "https://[desk]",
                "https://",
                "https://a b",
            )
        ),
        *(
            ("trusted_proxies", item)
            for item in ("10.1.0.1/16", "proxy.example", "*", "10.1.0.0/33", "10.1.0.1:80", "unix:")
        ),
    ],
)
def test_what_no_request_could_match_is_refused_by_name(setting: str, item: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ServerSettings.model_validate({setting: f"10.0.0.7, {item}" if setting != "cors_origins" else item})
    [error] = refused.value.errors()
    assert error["loc"] == (setting,)
    assert repr(item) in error["msg"]
