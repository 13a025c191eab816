"""What goes over the socket."""

from __future__ import annotations

from service.runtime.engine import EngineInfo
from service.runtime.tuning import Measured, Tuned, Tuning
from service.workers.messages import MAX_BYTES, SUBMIT, Done, News, Outcome, Request, Stop, pack_done, unpack


def test_requests() -> None:
    request = Request(SUBMIT, slot=70_000, model=3, top_k=1000)
    assert Request.unpack(request.pack()) == request
    assert len(request.pack()) < 32


def test_done_in_one_message() -> None:
    done = [Done(slot, Outcome(slot % 3), queued=0.25, ran=slot / 8, batch_size=slot) for slot in range(64)]
    (message,) = pack_done(done)
    assert unpack(message) == done


def test_more_than_a_message_holds() -> None:
    done = [Done(slot, Outcome.ANSWERED, queued=0.0, ran=0.0, batch_size=1) for slot in range(10_000)]
    messages = list(pack_done(done))
    assert len(messages) > 1
    assert max(map(len, messages)) <= MAX_BYTES
    found: list[Done] = []
    for message in messages:
        part = unpack(message)
        assert isinstance(part, list)
        found += part
    assert found == done


def test_news() -> None:
    one = Measured(provider="cpu", precision="fp32", lanes=2, lone_ms=9.0, images_per_second={1: 10.0, 2: 15.0})
    tuned = Tuned(Tuning(measured=(one,)), remembered=False)
    news = News(2, None, EngineInfo("cpu", "fp32", 2, (1, 2), {"cuda": "none here"}, tuned))
    assert unpack(news.pack()) == news
    failed = News(0, "the file is damaged", None)
    assert unpack(failed.pack()) == failed


def test_stop() -> None:
    assert unpack(Stop(15).pack()) == Stop(15)
