"""TLS: what is wrong with its files is one sentence, and a silent client is cut off."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from cryptography.hazmat.primitives import serialization

from service.admin import admin_port
from service.metrics import Metrics
from service.server import Server
from service.settings import Settings
from service.tls import TlsError, check
from tests.service.raw_http import echo, everything
from tests.support.processes import free_port
from tests.support.waiting import async_until


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return written(tmp_path / "certificate.pem", cert().cert_chain_pems[0])


@pytest.fixture
def key(tmp_path: Path, certificate: Path) -> Path:
    return written(tmp_path / "key.pem", cert().private_key_pem)


_CERT: list[trustme.LeafCert] = []


def cert() -> trustme.LeafCert:
    """The same one for all tests: a key takes a while."""
    if not _CERT:
        _CERT.append(trustme.CA().issue_cert("127.0.0.1"))
    return _CERT[0]


def written(path: Path, content: trustme.Blob) -> Path:
    content.write_to_path(path)
    return path


def test_a_pair_is_accepted_in_two_files_and_in_one(certificate: Path, key: Path) -> None:
    check(certificate, key)
    cert().private_key_pem.write_to_path(certificate, append=True)
    check(certificate, None)


def test_what_is_wrong_is_said(certificate: Path, key: Path, tmp_path: Path) -> None:
    missing, text = tmp_path / "none.pem", tmp_path / "text.pem"
    text.write_text("hello")
    other = written(tmp_path / "other.pem", trustme.CA().issue_cert("127.0.0.1").private_key_pem)
    for given, message in (
        ((missing, key), f"{missing} cannot be read (No such file or directory): correct tls_certificate"),
        ((certificate, missing), f"{missing} cannot be read (No such file or directory): correct tls_key"),
        ((text, key), f"{text} holds no certificate in PEM format: correct tls_certificate"),
        ((key, key), f"{key} holds no certificate in PEM format: correct tls_certificate"),
        ((certificate, text), f"{text} holds no private key in PEM format: correct tls_key"),
        ((certificate, certificate), f"{certificate} holds no private key in PEM format: correct tls_key"),
        ((certificate, None), f"{certificate} holds no private key in PEM format: set tls_key to its file"),
        ((certificate, other), f"the private key in {other} is not that of {certificate}"),
    ):
        with pytest.raises(TlsError) as refused:
            check(*given)
        assert str(refused.value) == message


def test_a_key_with_a_passphrase_is_refused_instead_of_asking_on_the_terminal(certificate: Path, key: Path) -> None:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsError, match="has a passphrase: store it without one"):
        check(certificate, key)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_without_a_handshake_is_closed(run: Any, certificate: Path, key: Path) -> None:
    settings = Settings(tls_certificate=certificate, tls_key=key, client_timeout=0.3, port=free_port())
    server = Server(settings, Metrics(), lambda server: echo, heeds_signals=False)
    server.config.lifespan = "off"

    async def ask() -> None:
        serving = asyncio.create_task(server.serve())
        await async_until(lambda: server.started)
        try:
            assert await everything(settings.port, b"") == b""
        finally:
            server.should_exit = server.force_exit = True
            await asyncio.wait([serving], timeout=60)

    run(ask())


def test_a_connection_to_the_admin_port_without_a_handshake_is_closed(certificate: Path, key: Path) -> None:
    port = free_port()
    settings = Settings(tls_certificate=certificate, tls_key=key, client_timeout=0.3, admin_port=port)
    with (
        admin_port(settings, lambda: True, lambda: None, Metrics()),
        socket.create_connection(("127.0.0.1", port), timeout=30) as silent,
    ):
        assert silent.recv(1) == b""
