"""Whatever a setting is given, the settings are read, or the one at fault is named in one sentence."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.settings import Settings
from service.settings_sources import SettingsError, read_settings
from tests.support.mutations import CHANGES, changed, tried

pytestmark = pytest.mark.usefixtures("no_settings")

NAMES = sorted(Settings.model_fields)
GOOD = [
    "10.0.0.0/8,::1",
    "https://example.com:80",
    "/vision/v1",
    "[::1]",
    "a,b",
    "1e3",
    "64",
    "true",
    "~/x",
    "cpu",
    "{}",
    "[1]",
]
FILE = b"# a comment\nRESNET_PORT=81\nexport RESNET_MODELS='a, b'\nOTHER=\"x ${HOME}\"\n"
# As the system passes them: no NUL, and bytes that are not UTF-8 as surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30) | st.just("m\udcf6")
CHANGED = st.builds(
    lambda good, changes: changed(good.encode(), changes).replace(b"\0", b"").decode("utf-8", "surrogateescape"),
    st.sampled_from(GOOD),
    CHANGES,
)
VALUE = st.one_of(st.sampled_from(GOOD), CHANGED, TEXT)


def check(*arguments: str) -> None:
    try:
        read_settings(arguments)
    except SettingsError as error:
        message = str(error)
    else:
        return
    assert message
    assert "\n" not in message.strip()


@tried(500)
@given(name=st.sampled_from(NAMES), value=VALUE)
def test_any_value(name: str, value: str) -> None:
    with suppress(ValidationError):
        Settings(**{name: value})


@tried(80)
@given(name=st.sampled_from(NAMES), value=VALUE)
def test_any_value_of_an_option(name: str, value: str) -> None:
    check(f"--{name.replace('_', '-')}={value}")


@tried(60)
@given(name=st.sampled_from(NAMES), value=VALUE)
def test_any_value_in_the_environment(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"RESNET_{name.upper()}", value)
        check()


@tried(60)
@given(changes=CHANGES)
def test_any_file(changes: list[tuple[str, int, int]]) -> None:
    Path(".env").write_bytes(changed(FILE, changes))
    check()
