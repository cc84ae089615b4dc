"""What commands and the service owe the machine they run on: systemd, owners of files, certificates."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import stat
from pathlib import Path

from pydantic_settings import SettingsError

from app.settings import ServerSettings

_LOGGER = logging.getLogger("tessera")

OWN_FILES = ("gallery.", "security.", "secret.", "template-keys.", "replaced-")
"""How the names begin of what commands make in a data directory."""


def notify(state: str) -> None:
    """Tells systemd a state, such as ``READY=1``, if it waits for one (``Type=notify``, see ``sd_notify(3)``)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # a name in the abstract namespace
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), address)
    except OSError as error:
        _LOGGER.warning("systemd was not told %s: %s", state, error)


def give_to_owner(directory: Path) -> None:
    """Gives what root made in a data directory to the owner of the directory.

    A command of root's would else leave files that the service, which is another user, cannot open. Symbolic links are
    not followed and files with several names are left, so that the owner cannot point this at files of others.
    """
    if os.geteuid() != 0 or not directory.is_dir():
        return
    owner = directory.stat()
    if owner.st_uid == 0:
        return
    for parent, folders, files, descriptor in os.fwalk(directory):
        if parent == str(directory):
            folders[:] = [name for name in folders if name.startswith(OWN_FILES)]
        for name in (*folders, *(name for name in files if parent != str(directory) or name.startswith(OWN_FILES))):
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            plain = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
            if plain and found.st_uid == 0:
                os.chown(name, owner.st_uid, owner.st_gid, dir_fd=descriptor, follow_symlinks=False)


def check_certificate(server: ServerSettings) -> None:
    """Loads the files that TLS is served with. Raises OSError, SettingsError."""
    if server.tls_certificate is None or server.tls_key is None:
        return
    for path in (server.tls_certificate, server.tls_key):
        path.open("rb").close()
    try:
        # The password of none: a key that wants one would have it asked for on the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            server.tls_certificate, server.tls_key, password=""
        )
    except ssl.SSLError as error:
        raise SettingsError(
            f"{server.tls_certificate} and {server.tls_key} cannot be used for TLS: {error.reason or error}. They are "
            "the certificate with its chain and the key that belongs to it, both PEM, the key without a passphrase."
        ) from error
