"""TLS of the service's own ports: its files are checked before the start, and handshakes are held to a time.

uvicorn's own errors would not say which file is at fault, and it has no setting for the time.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any


class TlsError(Exception):
    """A file for TLS cannot be used; the message names the file, the fault and the remedy."""


def check(certificate: Path, key: Path | None) -> None:
    """
    Args:
        certificate, key: the settings `tls_certificate` and `tls_key`.

    Raises:
        TlsError: a file is missing, is not what it should be, or the key is not the certificate's.
    """
    for setting, path in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            if path:
                path.open("rb").close()
        except OSError as error:
            raise TlsError(f"{path} cannot be read ({error.strerror}): correct {setting}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        raise TlsError(f"{certificate} holds no certificate in PEM format: correct tls_certificate") from None

    def no_passphrase() -> str:  # OpenSSL would ask for it on the terminal
        raise TlsError(f"the private key in {key or certificate} has a passphrase: store it without one")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"the private key in {key or certificate} is not that of {certificate}") from None
        if key is None:
            raise TlsError(f"{certificate} holds no private key in PEM format: set tls_key to its file") from None
        raise TlsError(f"{key} holds no private key in PEM format: correct tls_key") from None


def limit_handshakes(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Has servers that this loop creates from now on close a connection whose TLS handshake takes longer.

    Without it, the loop waits for a minute. The protocol sees a connection only after the handshake: until then no
    other limit applies to it, nor does this one bound how many there are.
    """
    create_server = loop.create_server

    async def limited(*arguments: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = seconds
        return await create_server(*arguments, **options)

    loop.create_server = limited  # type: ignore[method-assign]
