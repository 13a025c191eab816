"""Checks the files for TLS before the service starts: uvicorn's own errors would not say which file is at fault."""

from __future__ import annotations

import ssl
from pathlib import Path


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
