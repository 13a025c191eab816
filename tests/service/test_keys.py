"""The keys file: what it holds, how it is followed, what is refused; and the command that makes keys."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import subprocess
import sys
import tomllib
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import keys
from service.errors import RateLimited, TooManyAtOnce
from service.keys import KeyFile, KeysError, main, read_entries
from tests.support.mutations import CHANGES, changed, tried


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def table(name: str, token: str, rest: str = "") -> str:
    return f'[{name}]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nscopes = ["classify"]\n{rest}\n'


def swap(path: Path, text: str) -> None:
    """Replaces a file in one step, as editors do."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def name_of(file: KeyFile, token: str) -> str | None:
    key = file.find(token)
    return key and key.name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(table("old", "alpha") + table("new", "beta", "rate = 1\nconcurrency = 2"))
    return path


def test_several_keys_are_in_force_at_once(path: Path) -> None:
    file = KeyFile(path)
    assert [name_of(file, token) for token in ("alpha", "beta", "gamma", "", "Alpha", "alphä")] == [
        *("old", "new"),
        *[None] * 4,
    ]


def test_every_key_is_compared_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sent, all digests are compared, by a function that tells nothing by its time."""
    compared: list[bytes] = []
    constant_time = hmac.compare_digest

    def compare(sent: bytes, known: bytes) -> bool:
        compared.append(known)
        return constant_time(sent, known)

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    file = KeyFile(path)
    for token in ("alpha", "beta", "gamma"):
        compared.clear()
        file.find(token)
        assert compared == [hashlib.sha256(known).digest() for known in (b"alpha", b"beta")]


def test_a_changed_file_is_read_again_within_a_second(path: Path) -> None:
    clock = Clock()
    file = KeyFile(path, clock)
    swap(path, table("new", "gamma"))
    assert name_of(file, "alpha") == "old"  # nobody looks more than once a second
    clock.now += 1
    assert [name_of(file, token) for token in ("alpha", "beta", "gamma")] == [None, None, "new"]


def test_a_swapped_link_is_followed(path: Path, tmp_path: Path) -> None:
    """Kubernetes mounts secrets as links: keys.toml -> ..data/keys.toml, and swaps ..data -> ..2026_11_27."""
    for version, token in (("..1", "alpha"), ("..2", "gamma")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys.toml").write_text(table("key", token))
        os.utime(tmp_path / version / "keys.toml", (1, 1))  # the same size and time: only the file is another
    data = tmp_path / "..data"
    data.symlink_to("..1")
    path.unlink()
    path.symlink_to("..data/keys.toml")
    clock = Clock()
    file = KeyFile(path, clock)
    assert name_of(file, "alpha") == "key"
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").replace(data)
    clock.now += 1
    assert (name_of(file, "alpha"), name_of(file, "gamma")) == (None, "key")


@pytest.mark.parametrize("broken", ["[half", "", None])
def test_a_broken_file_leaves_the_last_good_keys_in_force(
    path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    file = KeyFile(path, clock)
    path.unlink() if broken is None else swap(path, broken)
    for _ in range(3):
        clock.now += 1
        assert name_of(file, "alpha") == "old"
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1  # once for each change, not each second
    assert "the keys of before stay in force" in errors[0]
    swap(path, table("new", "gamma"))
    clock.now += 1
    assert (name_of(file, "alpha"), name_of(file, "gamma")) == (None, "new")


def test_a_changed_file_gives_nobody_a_fresh_allowance(path: Path) -> None:
    clock = Clock()
    file = KeyFile(path, clock)
    before = file.find("beta")
    assert before
    with before.allowance:
        pass
    swap(path, table("new", "gamma", "rate = 1\nconcurrency = 2"))
    clock.now += 0.999
    assert file.find("gamma") is None
    clock.now = 101.0
    after = file.find("gamma")
    assert after
    assert after.allowance is before.allowance
    with after.allowance, pytest.raises(RateLimited), after.allowance:
        pass


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key: add one with `python -m service.keys new NAME >>"),
        ("[a", "is not TOML"),
        (f'[a]\nsha256 = "{DIGEST}"\n', "key a: scopes: Field required"),
        (f'[a]\nsha256 = "{DIGEST}"\nscopes = []\n', "key a: scopes: "),
        (f'[a]\nsha256 = "{DIGEST}"\nscopes = ["root"]\n', "key a: scopes: 0: .*'classify', 'metrics' or 'admin'"),
        ('[a]\nsha256 = "resnet_secret"\nscopes = ["classify"]\n', "key a: sha256: "),
        (
            f'[a]\nsha256 = "{DIGEST}"\nscopes = ["classify"]\nrate = 0\n',
            "key a: rate: .*greater than or equal to 0.000001",
        ),
        (f'[a]\nsha256 = "{DIGEST}"\nscopes = ["classify"]\nlimit = 1\n', "key a: limit: Extra inputs"),
        (f'[a]\nsha256 = "{DIGEST}"\nscopes = ["classify"]\nburst = 2\n', "key a: burst is set without rate"),
        ("a = 1\n", "key a: Input should be"),
        (f'["a b"]\nsha256 = "{DIGEST}"\nscopes = ["classify"]\n', "key 'a b': a name is 1 to 64 letters"),
        (f'[anonymous]\nsha256 = "{DIGEST}"\nscopes = ["classify"]\n', "key anonymous: this name is taken"),
        (table("resnet_secret", "x"), "a name may not begin with resnet_"),
        (table("a", "x") + table("b", "x"), "one key under two names"),
    ],
)
def test_a_broken_file_is_refused_at_the_start(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(KeysError, match=message) as refused:
        KeyFile(path)
    assert "secret" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused_at_the_start(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"\xff")
    with pytest.raises(KeysError, match="it is not UTF-8"):
        KeyFile(path)
    with pytest.raises(KeysError, match=r"No such file .*: correct api_keys_file, or make the file with"):
        KeyFile(tmp_path / "none.toml")
    with pytest.raises(KeysError, match="cannot be read"):
        KeyFile(tmp_path)


def test_a_new_key_is_shown_once_and_its_entry_can_be_appended(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    tokens = []
    for name, options in (
        ("batch-job", ["--scope", "classify", "--scope", "admin", "--rate", "2.5", "--concurrency", "3"]),
        ("web", []),
    ):
        with path.open("a") as output:
            finished = subprocess.run(
                [sys.executable, "-m", "service.keys", "new", name, *options],
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                check=True,
            )
        tokens += [word for word in finished.stderr.split() if word.startswith("resnet_")]
    assert len(set(tokens)) == 2
    assert all(len(token) >= 43 for token in tokens)  # 32 bytes in base64
    assert not any(token in path.read_text() for token in tokens)
    file = KeyFile(path)
    assert [name_of(file, token) for token in tokens] == ["batch-job", "web"]
    entries = read_entries(path)
    assert entries["batch-job"].scopes == ("classify", "admin")
    assert (entries["batch-job"].rate, entries["batch-job"].concurrency) == (2.5, 3)
    assert tomllib.loads(path.read_text())["web"].keys() == {"sha256", "scopes"}


@pytest.mark.parametrize(
    "arguments", [["a b"], ["invalid"], ["a", "--rate", "-1"], ["a", "--burst", "2"], ["a", "--scope", "root"]]
)
def test_a_key_that_the_file_could_not_hold_is_not_made(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["new", *arguments])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "resnet_" not in captured.err


WHOLE_FILE = (table("old", "alpha") + table("new", "beta", "rate = 1.5\nburst = 2\nconcurrency = 2")).encode()
NUMBER = st.one_of(st.integers(), st.floats(), st.just("9" * 400)).map(str)
LIMITS = st.dictionaries(st.sampled_from(["rate", "burst", "concurrency"]), NUMBER)


def used(path: Path) -> None:
    """Reads a keys file and sends three requests at once with each of its keys. Raises KeysError."""
    file = KeyFile(path, Clock())
    for token in ("alpha", "beta"):
        key = file.find(token)
        with ExitStack() as requests, suppress(RateLimited, TooManyAtOnce):
            for _ in range(3):
                requests.enter_context(key.allowance if key else nullcontext())


@tried(400)
@given(changes=CHANGES)
def test_a_changed_file_holds_keys_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.toml"
    path.write_bytes(changed(WHOLE_FILE, changes))
    with suppress(KeysError):
        used(path)


@tried(200)
@given(limits=LIMITS)
def test_any_limits_are_kept_or_refused(tmp_path_factory: pytest.TempPathFactory, limits: dict[str, str]) -> None:
    path = tmp_path_factory.getbasetemp() / "limits.toml"
    path.write_text(table("new", "beta", "\n".join(f"{name} = {value}" for name, value in limits.items())))
    with suppress(KeysError):
        used(path)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("rate = 1e-310", "key new: rate: .*greater than or equal to"),  # its Retry-After would be infinite
        ("rate = 1e308", "key new: rate: .*less than or equal to"),
        (f"rate = 1\nburst = {'9' * 400}", "key new: burst: .*less than or equal to"),
    ],
)
def test_limits_that_nobody_could_count_are_refused(path: Path, limits: str, message: str) -> None:
    path.write_text(table("new", "beta", limits))
    with pytest.raises(KeysError, match=message):
        KeyFile(path)


def test_a_file_nested_too_deeply_is_refused(path: Path) -> None:
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(KeysError, match="is not TOML"):
        KeyFile(path)
