"""Traces of real services, received by a real receiver: in one process, with workers, over gRPC, behind nginx."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import grpc
import httpx
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics

from benchmarks.photo import photo
from service.client import Client
from service.grpc_api.messages import ModelInferRequest
from tests.support.balancer import nginx, require_nginx
from tests.support.otlp import Received, Receiver, forget_variables
from tests.support.processes import JPEG, Service, free_port
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODEL = "resnet8-cifar"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["receive", "queue", "decode", "queue", "run", "respond"]
OPEN_METRICS = {"accept": "application/openmetrics-text;version=1.0.0"}
Start = Callable[..., Service]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Services that are started now export to it, every 50 ms."""
    with Receiver() as receiver:
        forget_variables(monkeypatch)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield receiver


@pytest.fixture
def start(tiny_dir: Path, start_service: Start) -> Callable[..., Service]:
    def start(**settings: object) -> Service:
        return start_service(tiny_dir, provider="cpu", max_batch=4, shutdown_delay=0.1, **settings)

    return start


def classify(service: Service, **headers: str) -> httpx.Response:
    return service.post("/classify", content=photo(), headers={**JPEG, **headers}, timeout=300)


def traceparent(sampled: bool, trace: str = TRACE) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{PARENT}-{int(sampled):02d}"}


def servers(spans: list[Received]) -> list[Received]:
    return [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]


def inside(spans: list[Received], server: Received) -> list[Received]:
    """What a request went through, in time."""
    found = [span for span in spans if span.parent == server.span_id and span.trace_id == server.trace_id]
    return sorted(found, key=lambda span: (span.start, span.end))


def check_request(spans: list[Received], server: Received) -> None:
    """The stages of a request with one image follow each other within it; its batch and its `run` know each other."""
    stages = inside(spans, server)
    assert [span.name for span in stages] == STAGES
    assert stages[0].start == server.start
    assert stages[-1].end == server.end
    assert all(first.end <= second.start + 1000 for first, second in pairwise(stages))  # rounding
    assert all(span.start <= span.end for span in (*stages, server))
    assert [span.attributes.get("resnet.queue") for span in stages if span.name == "queue"] == ["decode", "engine"]
    run = stages[4]
    (batch,) = [span for span in spans if span.name == "batch" and span.ids in run.links]
    assert server.ids in batch.links
    assert batch.parent == ""
    assert batch.trace_id != server.trace_id
    assert batch.attributes["resnet.batch_size"] == run.attributes["resnet.batch_size"]
    assert batch.attributes["resnet.model"] == f"{MODEL}@1"


def complete(requests: int) -> Callable[[list[Received]], bool]:
    """Whether so many requests and their batches have come."""

    def enough(spans: list[Received]) -> bool:
        linked = {link for span in spans if span.name == "batch" for link in span.links}
        found = servers(spans)
        return len(found) == requests and {span.ids for span in found} <= linked

    return enough


def test_a_request_from_its_head_to_its_answer(
    start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")  # its spans would be others beside ours
    service = start(log_format="json")
    answer = classify(service, **{"X-Request-ID": "order-66"})
    spans = receiver.wait_for(complete(1))
    (server,) = servers(spans)
    check_request(spans, server)
    assert answer.headers["traceresponse"] in [
        f"00-{server.trace_id}-{server.span_id}-{flags}" for flags in ("01", "03")
    ]
    assert server.name == "POST /classify"
    assert server.parent == ""
    assert not server.failed
    assert server.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/classify",
        "network.protocol.version": "1.1",
        "url.path": "/classify",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "resnet.model": f"{MODEL}@1",
        "resnet.images": 1,
        "resnet.request_id": "order-66",
    }
    assert server.resource["service.name"] == "resnet-service"
    assert server.resource["service.version"] == service.get("/version").json()["version"]
    until(lambda: "order-66" in service.log.read_text())
    (line,) = [json.loads(line) for line in service.log.read_text().splitlines() if "order-66" in line]
    assert (line["trace_id"], line["span_id"]) == server.ids
    assert not any("trace_id" in line for line in service.log.read_text().splitlines() if "order-66" not in line)


def test_several_images_and_requests_share_a_batch(start: Start, receiver: Receiver, held: Path) -> None:
    service = start(target_wait_ms=60_000, request_timeout=600, engine_threads=1)
    held.touch()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(classify, service) for _ in range(4)]
        until(lambda: value(service, "resnet_images_in_service") == 4, 90)
        assert classify(service, **{"X-Request-Timeout-Ms": "50"}).status_code == 504
        held.unlink()
        assert [answer.result().status_code for answer in answers] == [200] * 4
    spans = receiver.wait_for(lambda spans: len(servers(spans)) == 5)
    (overdue,) = [span for span in servers(spans) if span.failed]
    assert overdue.attributes["error.type"] == "deadline-missed"
    spans = receiver.wait_for(lambda spans: complete(4)([span for span in spans if span.ids != overdue.ids]))
    for server in servers(spans):
        if not server.failed:
            check_request(spans, server)
    batches = [span for span in spans if span.name == "batch"]
    assert [len(batch.links) for batch in batches] == [batch.attributes["resnet.batch_size"] for batch in batches]
    assert sum(len(batch.links) for batch in batches) == 4

    files = [("file", ("private.jpg", photo())), ("file", ("broken.jpg", b"no image"))]
    answer = service.post("/classify", files=files)
    assert answer.status_code == 200
    trace_id = answer.headers["traceresponse"].split("-")[1]
    spans = receiver.wait_for(lambda spans: any(s.name.startswith("POST") and s.trace_id == trace_id for s in spans))
    (server,) = [span for span in servers(spans) if span.trace_id == trace_id]
    by_image = Counter((span.name, span.attributes.get("resnet.image")) for span in inside(spans, server))
    assert by_image == {
        ("receive", None): 1,
        ("respond", None): 1,
        ("unanswered", 1): 1,
        ("queue", 0): 2,
        ("decode", 0): 1,
        ("run", 0): 1,
    }
    (unanswered,) = receiver.named("unanswered", trace_id)
    assert unanswered.attributes["resnet.problem"] == "not-an-image"
    assert "private" not in str(spans)


def value(service: Service, name: str) -> int:
    found = re.search(rf'^{name}{{model="{MODEL}"}} (\S+)$', service.get("/metrics").text, re.M)
    return int(float(found[1])) if found else 0


def test_the_caller_decides_whether_a_request_is_traced(
    start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    service = start()
    for headers in ({}, traceparent(False), {"traceparent": "00-nonsense-01"}, {"traceparent": "x" * 2000}):
        answer = classify(service, **headers)
        assert answer.status_code == 200
        assert "traceresponse" not in answer.headers
    states = [("tracestate", "vendor=1"), ("tracestate", "other=2")]
    headers = [*JPEG.items(), *traceparent(True).items(), *states]
    answer = service.post("/classify", content=photo(), headers=headers)
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")
    spans = receiver.wait_for(complete(1))
    (server,) = servers(spans)
    check_request(spans, server)
    assert (server.trace_id, server.parent, server.state) == (TRACE, PARENT, "vendor=1,other=2")
    service.stop()
    assert len(servers(receiver.spans)) == 1


def test_a_ratio_of_the_traces_that_begin_here(
    start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its decision alone, if it does not look at parents."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    service = start()
    low, high = "0" * 31 + "1", "f" * 32  # the sampler compares the last eight bytes with the ratio
    for trace, sampled, expected in ((low, False, True), (low, True, True), (high, False, False), (high, True, False)):
        answer = classify(service, **traceparent(sampled, trace))
        assert ("traceresponse" in answer.headers) is expected
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: classify(service), range(64)))
    chosen = {answer.headers["traceresponse"].split("-")[1] for answer in answers if "traceresponse" in answer.headers}
    assert 0 < len(chosen) < 64
    service.stop()
    assert {span.trace_id for span in servers(receiver.spans)} == {*chosen, low}


def test_other_requests_and_failures(start: Start, receiver: Receiver) -> None:
    service = start()
    assert service.classify(b"no image").status_code == 422
    assert service.post(f"/v2/models/{MODEL}/infer", json={}).status_code == 400
    assert service.post("/preview", content=photo(), headers=JPEG).status_code == 200
    assert service.post("/embed", content=photo(), headers=JPEG).status_code == 200
    for path in ("/healthz/ready", "/metrics", "/models", "/nowhere"):
        service.get(path, headers=traceparent(True))
    service.post("/nowhere", headers=traceparent(True))
    service.stop()
    found = {
        span.name: (span.attributes["http.response.status_code"], span.attributes.get("error.type"), span.failed)
        for span in servers(receiver.spans)
    }
    assert found == {
        "POST /classify": (422, "not-an-image", False),
        "POST /v2/models/{name}/infer": (400, "invalid-argument", False),
        "POST /preview": (200, None, False),
        "POST /embed": (200, None, False),
    }
    (preview,) = receiver.named("POST /preview")
    assert [span.name for span in inside(receiver.spans, preview)] == ["receive", "queue", "decode", "draw", "respond"]


def test_without_a_receiver_the_service_goes_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    forget_variables(monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    service = start()

    def warnings() -> list[str]:
        return [line for line in service.log.read_text().splitlines() if "WARNING" in line or "ERROR" in line]

    assert classify(service).status_code == 200
    until(lambda: bool(warnings()), 90)
    for _ in range(40):  # more than the queue holds
        assert classify(service).status_code == 200
    (warning,) = warnings()
    assert "traces cannot be exported" in warning
    assert "Connection refused" in warning
    with Receiver(port) as receiver:
        classify(service)
        receiver.wait_for(lambda spans: bool(servers(spans)))
        until(lambda: "traces are exported again" in service.log.read_text(), 90)
    assert len(warnings()) == 1
    assert service.stop(signal.SIGTERM) == 0


def test_workers_and_the_engine_process_lose_nothing_on_sigterm(
    start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    service = start(workers=2)
    service.wait_until_all_listen()
    with ThreadPoolExecutor(8) as pool:  # connections of their own, which the system spreads over the workers
        answers = list(pool.map(lambda _: classify(service), range(64)))
    assert not receiver.calls
    assert service.stop(signal.SIGTERM) == 0
    spans = receiver.spans
    assert complete(64)(spans)
    sent = {tuple(answer.headers["traceresponse"].split("-")[1:3]) for answer in answers}
    assert {span.ids for span in servers(spans)} == sent
    for server in servers(spans):
        check_request(spans, server)
    assert {span.resource["resnet.process"] for span in servers(spans)} == {"worker 0", "worker 1"}
    assert {span.resource["resnet.process"] for span in spans if span.name == "batch"} == {"engine"}
    assert len({span.resource["service.instance.id"] for span in spans}) == 3


def test_a_call_over_grpc(start: Start, receiver: Receiver) -> None:
    port = free_port()
    start(grpc_port=port)
    message = ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(3 * 32 * 32)])
    message.inputs.add(name="image", datatype="UINT8", shape=[1, 3, 32, 32])
    sampled = tuple(traceparent(True).items())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        _, call = infer.with_call(message.SerializeToString(), metadata=sampled)
        trailing = dict(call.trailing_metadata())
        message.model_name = "nowhere"
        with pytest.raises(grpc.RpcError):
            infer(message.SerializeToString())
        channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", metadata=sampled)
    spans = receiver.wait_for(lambda spans: len(servers(spans)) == 2)
    good, bad = sorted(servers(spans), key=lambda span: span.start)
    assert (good.trace_id, good.parent) == (TRACE, PARENT)
    assert trailing["traceresponse"].startswith(f"00-{TRACE}-{good.span_id}-")
    assert good.name == "inference.GRPCInferenceService/ModelInfer"
    assert (
        good.attributes.items()
        >= {
            "rpc.system.name": "grpc",
            "rpc.method": "inference.GRPCInferenceService/ModelInfer",
            "rpc.response.status_code": "OK",
            "resnet.model": f"{MODEL}@1",
            "resnet.images": 1,
        }.items()
    )
    assert [span.name for span in inside(spans, good)] == ["receive", "queue", "queue", "run", "respond"]
    assert (bad.attributes["rpc.response.status_code"], bad.failed) == ("NOT_FOUND", False)


def test_from_the_client_through_the_balancer(start: Start, receiver: Receiver, tmp_path: Path) -> None:
    """The client makes its own span, with what OpenTelemetry has for httpx; nginx passes its context on."""
    require_nginx()
    service = start()
    provider = TracerProvider()
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with nginx(tmp_path, [service.port]) as balanced, Client(balanced.url) as client:
            with provider.get_tracer("test").start_as_current_span("a page of the shop") as page:
                client.classify(photo())
            (entry,) = [entry for entry in balanced.entries(1) if entry["uri"] == "/classify"]
    finally:
        instrumentor.uninstrument()
        provider.shutdown()
    spans = receiver.wait_for(complete(1))
    (server,) = servers(spans)
    check_request(spans, server)
    assert server.trace_id == f"{page.get_span_context().trace_id:032x}"
    sender = str(entry["trace"]).split("-")
    assert (sender[1], sender[2]) == (server.trace_id, server.parent)
    assert server.parent != f"{page.get_span_context().span_id:016x}"  # the call's span lies between


@pytest.mark.parametrize("workers", [1, 2])
def test_measurements_name_a_request(start: Start, receiver: Receiver, workers: int) -> None:
    service = start(workers=workers)
    if workers > 1:
        service.wait_until_all_listen()
    answer = classify(service)
    _, trace_id, span_id, _ = answer.headers["traceresponse"].split("-")
    (batch,) = receiver.wait_for(complete(1)) and receiver.named("batch")
    named, batches = {"trace_id": trace_id, "span_id": span_id}, {"trace_id": batch.trace_id, "span_id": batch.span_id}
    expected = {
        "resnet_http_request_seconds": [named],
        "resnet_stage_seconds": [named] * 4,
        "resnet_confidence": [named],
        "resnet_batch_size": [batches],
    }

    def exemplars() -> dict[str, list[dict[str, str]]]:
        scraped = service.get("/metrics", headers=OPEN_METRICS)
        assert scraped.headers["content-type"].startswith("application/openmetrics-text")
        families = list(open_metrics(scraped.text))
        found = {family.name: [each.exemplar.labels for each in family.samples if each.exemplar] for family in families}
        return {name: labels for name, labels in found.items() if labels}

    until(lambda: exemplars() == expected, 90)
    plain = service.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert trace_id not in plain.text


def test_a_pipelined_request_does_not_belong_to_the_one_before_it(
    start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    service = start(log_format="json")
    body = photo()
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n"
    traced = f"{head}X-Request-ID: first\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n\r\n".encode() + body
    other = f"{head}X-Request-ID: second\r\nConnection: close\r\n\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as sock:
        sock.sendall(traced + other)
        answers = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.count(b"traceresponse") == 1
    service.stop()
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    access = {line["request_id"]: line.get("trace_id") for line in lines if line["logger"] == "service.access"}
    assert (access["first"], access["second"]) == (TRACE, None)
    assert complete(1)(receiver.spans)
