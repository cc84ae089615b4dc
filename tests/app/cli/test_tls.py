"""HTTPS from files, and the health check that goes with it."""

from __future__ import annotations

import datetime
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.cli.health import own_address
from app.settings import ServerSettings
from tests.app.process import PATIENCE, Server, tessera


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_files_that_are_no_certificate_and_key_are_refused_in_one_line(tmp_path: Path) -> None:
    certificate_file, key_file = certificate(tmp_path)
    wrong, locked = tmp_path / "wrong.pem", tmp_path / "locked.pem"
    wrong.write_text("no key")
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for file in (tmp_path / "absent.pem", wrong, locked):
        done = tessera(
            "serve",
            TESSERA_SERVER__TLS_CERTIFICATE=str(certificate_file),
            TESSERA_SERVER__TLS_KEY=str(file),
            TESSERA_GALLERY__DATA_DIR=str(tmp_path / "data"),
        )
        assert done.returncode == 3, done.stderr
        [line] = done.stderr.splitlines()
        assert str(file) in line
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_https_from_files(tmp_path: Path) -> None:
    certificate_file, key_file = certificate(tmp_path)
    variables = {
        "TESSERA_SERVER__TLS_CERTIFICATE": str(certificate_file),
        "TESSERA_SERVER__TLS_KEY": str(key_file),
    }
    with Server(tmp_path / "data", **variables) as server:
        url = f"https://localhost:{server.port}"
        with httpx.Client(base_url=url, verify=str(certificate_file), timeout=PATIENCE) as client:
            answer = client.get("/livez")
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"].startswith("max-age=")
        done = tessera("health", **variables, TESSERA_SERVER__PORT=str(server.port))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:9"),
        ("0.0.0.0", "http://127.0.0.1:9"),
        ("::1", "http://[::1]:9"),
        ("192.0.2.1", "http://192.0.2.1:9"),
        ("localhost", "http://localhost:9"),
    ],
)
def test_where_a_service_answers_on_its_own_machine(host: str, address: str) -> None:
    assert own_address(ServerSettings(host=host, port=9)) == address
