from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from service.client.connection import check, check_concurrency, options


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost", "ftp://host", "http://", "http://host:port", ""])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not (an|the) address"):
        options(url, None, True)


def test_the_key_of_a_file_with_a_line_break() -> None:
    assert options("http://host", "key\n", True)["headers"]["X-API-Key"] == "key"


@pytest.mark.parametrize("key", ["", " \n", "a\nb", "schlüssel"])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(ValueError, match="the key is empty or has characters"):
        options("http://host", key, True)


def test_certificates_from_a_file(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    context = options("https://host", None, tmp_path / "ca.pem")["verify"]
    assert isinstance(context, ssl.SSLContext)
    assert len(context.get_ca_certs()) == 1
    with pytest.raises(FileNotFoundError):
        options("https://host", None, str(tmp_path / "no.pem"))


def test_wrong_numbers() -> None:
    check(0.1, 0)
    with pytest.raises(ValueError, match="a deadline is a number of seconds above 0"):
        check(-1, 0)
    with pytest.raises(ValueError, match="at least 0, not -1"):
        check(1, -1)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        check_concurrency(0)


def test_what_to_install_without_httpx() -> None:
    program = "import sys; sys.modules['httpx'] = None; import service.client"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ModuleNotFoundError" in finished.stderr
    assert "pip install 'resnet-service[client]'" in finished.stderr
