"""Which version answers to which name, over everything that may happen to versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.references import Published, State, candidates, goals, require, settle
from service.runtime.model_state import Unpublished, split

# versions are called by model and number: "a1"
A = Published({1: "a1", 2: "a2", 3: "a3"}, {"stable": 2, "canary": 3})
B = Published({4: "b4", 7: "b7"}, {})


def test_a_reference_is_a_name_and_perhaps_a_label() -> None:
    assert [split(text) for text in ("a", "a@3", "a@canary", "a.b-c@x")] == [
        ("a", None),
        ("a", "3"),
        ("a", "canary"),
        ("a.b-c", "x"),
    ]


def test_the_name_alone_means_the_stable_version_else_the_latest() -> None:
    assert candidates({"a": A, "b": B}) == {
        "a": ("a2", "a1"),
        "a@stable": ("a2", "a1"),
        "a@canary": ("a3",),
        "b": ("b7", "b4"),
    }


def test_without_falling_back_each_reference_means_one_version() -> None:
    found = candidates({"a": A, "b": B}, fall_back=False)
    assert found == {"a": ("a2",), "a@stable": ("a2",), "a@canary": ("a3",), "b": ("b7",)}


def test_an_alias_of_a_removed_version_is_none() -> None:
    model = Published({1: "a1", 3: "a3"}, {"stable": 2, "canary": 9})
    assert candidates({"a": model}) == {"a": ("a3", "a1")}


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (["b"], {"b": ("b7", "b4")}),
        (["a@1"], {"a@1": ("a1",), "a": ("a1",)}),
        (["a@canary", "a@1"], {"a@canary": ("a3",), "a": ("a3",), "a@1": ("a1",)}),
        (["a@stable"], {"a@stable": ("a2", "a1"), "a": ("a2", "a1")}),
        (["a@1", "b@4"], {"a@1": ("a1",), "a": ("a1",), "b@4": ("b4",), "b": ("b4",)}),
    ],
)
def test_named_references_are_the_only_ones(named: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    assert candidates({"a": A, "b": B}, named) == expected


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("c", "there is no model c: choose from a, b"),
        ("a@9", "a has no version 9: choose from 1, 2, 3"),
        ("a@blue", "a has no alias blue: choose from stable, canary, 1, 2, 3"),
        ("b@blue", "b has no alias blue: choose from 4, 7"),
    ],
)
def test_what_is_not_published_is_refused(named: str, message: str) -> None:
    with pytest.raises(Unpublished, match=f"^{message}$"):
        require({"a": A, "b": B}, ["a", named])
    assert candidates({"a": A, "b": B}, [named]) == {}


WANTED = {"a": ("a3", "a2", "a1")}


@pytest.mark.parametrize(
    ("states", "before", "goal", "answering", "idle"),
    [
        pytest.param({}, {}, "a3", {}, [], id="the wanted one is to be reached, and no other"),
        pytest.param({"a3": "loading"}, {}, "a3", {}, [], id="nobody answers meanwhile"),
        pytest.param({"a3": "ready"}, {}, "a3", {"a": "a3"}, [], id="it answers"),
        pytest.param({"a3": "failed"}, {}, "a2", {}, [], id="the next older one takes its place"),
        pytest.param({"a3": "failed", "a2": "failed"}, {}, "a1", {}, [], id="and the next"),
        pytest.param({"a3": "failed", "a2": "failed", "a1": "failed"}, {}, None, {}, [], id="until there is none"),
        pytest.param({"a2": "ready"}, {"a": "a2"}, "a3", {"a": "a2"}, [], id="the old one goes on meanwhile"),
        pytest.param(
            {"a2": "ready", "a3": "ready"}, {"a": "a2"}, "a3", {"a": "a3"}, ["a2"], id="the new one replaces it"
        ),
        pytest.param({"a2": "ready", "a3": "failed"}, {"a": "a2"}, "a2", {"a": "a2"}, [], id="a failed one does not"),
        pytest.param({"a9": "ready", "a3": "failed"}, {"a": "a9"}, "a2", {"a": "a9"}, [], id="also if it was removed"),
        pytest.param({"a9": "ready", "a3": "ready"}, {"a": "a9"}, "a3", {"a": "a3"}, ["a9"], id="then it may leave"),
    ],
)
def test_who_answers(
    states: dict[str, State], before: dict[str, str], goal: str | None, answering: dict[str, str], idle: list[str]
) -> None:
    assert goals(WANTED, states).get("a") == goal
    assert settle(WANTED, states, before) == (answering, idle)


def test_a_version_with_two_names_stays_until_both_have_left() -> None:
    wanted = {"a": ("a2",), "a@stable": ("a2",), "a@canary": ("a3",)}
    both: dict[str, State] = {"a2": "ready", "a3": "ready"}
    promoted = {"a": ("a3",), "a@stable": ("a3",), "a@canary": ("a3",)}
    answering = dict.fromkeys(promoted, "a3")
    assert settle(promoted, both, settle(wanted, both, {}).answering) == (answering, ["a2"])


VERSIONS = ["a1", "a2", "a3", "b1", "b2"]
REFERENCES = ["a", "a@stable", "a@canary", "b"]


@given(
    st.dictionaries(st.sampled_from(REFERENCES), st.lists(st.sampled_from(VERSIONS), min_size=1, unique=True)),
    st.dictionaries(st.sampled_from(VERSIONS), st.sampled_from(["loading", "ready", "failed"])),
    st.dictionaries(st.sampled_from(REFERENCES), st.sampled_from(VERSIONS)),
)
def test_whatever_happens_nobody_who_could_be_answered_is_not(
    wanted: dict[str, list[str]], states: dict[str, State], before: dict[str, str]
) -> None:
    found = settle(wanted, states, before)
    for reference, versions in wanted.items():
        usable = [
            version for version in [before.get(reference), *versions] if version and states.get(version) == "ready"
        ]
        assert (found.answering.get(reference) in usable) if usable else (reference not in found.answering)
        if all(states.get(version) == "failed" for version in versions) and before.get(reference) in usable:
            assert found.answering[reference] == before[reference]
    assert not set(found.idle) & set(found.answering.values())
    assert all(states[version] == "ready" for version in found.idle)
    reached = goals(wanted, states)
    assert all(states.get(version) != "failed" for version in reached.values())
    assert not set(found.idle) & set(reached.values())
    again = settle(wanted, states, found.answering)
    assert again == found  # it stays as it is until something happens
