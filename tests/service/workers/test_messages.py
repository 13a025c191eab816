"""What goes over the socket."""

from __future__ import annotations

from pathlib import Path

from service.model_repository import open_repository
from service.runtime.engine import EngineInfo
from service.runtime.model_card import Label
from service.runtime.tuning import Measured, Tuned, Tuning
from service.settings import Settings
from service.tracing.traces import NO_MARK
from service.workers.messages import (
    MAX_BYTES,
    SUBMIT,
    Done,
    Mark,
    News,
    Outcome,
    Request,
    Stop,
    Unpacker,
    from_bits,
    pack_done,
    to_bits,
)


def test_requests() -> None:
    for request_id in ("", "order-66", "x" * 64):
        for mark in (NO_MARK, bytes(range(24)), b"x" * 23 + b"\0"):
            request = Request(SUBMIT, 70_000, model=3, top_k=100_000, outputs=5, mark=mark, request_id=request_id)
            assert Request.unpack(request.pack()) == request
            assert len(request.pack()) < 128


def test_outputs_as_bits() -> None:
    assert [from_bits(bits) for bits in range(4)] == [(), ("logits",), ("embedding",), ("logits", "embedding")]
    assert all(to_bits(from_bits(bits)) == bits for bits in range(8))


def test_done_in_one_message() -> None:
    done = [Done(slot, Outcome(slot % 3), 0.25, slot / 8, slot, slot / 4, bytes([slot] * 24)) for slot in range(64)]
    (message,) = pack_done(done)
    assert Unpacker().unpack(message) == done


def test_more_than_a_message_holds() -> None:
    done = [Done(slot, Outcome.ANSWERED, queued=0.0, ran=0.0, batch_size=1) for slot in range(10_000)]
    messages = list(pack_done(done))
    assert len(messages) > 1
    assert max(map(len, messages)) <= MAX_BYTES
    found: list[Done] = []
    for message in messages:
        part = Unpacker().unpack(message)
        assert isinstance(part, list)
        found += part
    assert found == done


def told(news: News) -> News:
    """News as they arrive."""
    unpacker = Unpacker()
    *pieces, whole = [unpacker.unpack(message) for message in news.pack()]
    assert pieces == [None] * len(pieces)
    assert isinstance(whole, News)
    assert whole.model is not news.model
    return whole


def test_news(tiny_dir: Path) -> None:
    model = open_repository(Settings(models_dir=tiny_dir)).get("resnet8-cifar")
    one = Measured(provider="cpu", precision="fp32", lanes=2, lone_ms=9.0, images_per_second={1: 10.0, 2: 15.0})
    tuned = Tuned(Tuning(measured=(one,)), remembered=False)
    info = EngineInfo("cpu", "fp32", 2, (1, 2), {"cuda": "none here"}, tuned)
    ready = told(News(model, 2, info=info))
    assert (ready.index, ready.info, ready.model.card, ready.model.stamp) == (2, info, model.card, model.stamp)
    failed = told(News(model, reason="the file is damaged"))
    assert (failed.info, failed.reason) == (None, "the file is damaged")


def test_the_card_of_a_model_with_many_classes_takes_several_messages(tiny_dir: Path) -> None:
    model = open_repository(Settings(models_dir=tiny_dir)).get("resnet8-cifar")
    labels = tuple(Label(name=f"class {i} of many, with a long name") for i in range(5000))
    model.card = model.card.model_copy(update={"labels": labels})
    messages = list(News(model).pack())
    assert len(messages) > 2
    assert max(map(len, messages)) <= MAX_BYTES
    assert told(News(model)).model.card == model.card


def test_marks_and_stop() -> None:
    assert Unpacker().unpack(Stop(15).pack()) == Stop(15)
    assert [Unpacker().unpack(mark.pack()) for mark in Mark] == list(Mark)
