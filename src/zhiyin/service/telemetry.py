"""Spans of requests and of the stages of their lists, for OpenTelemetry; only where the settings say where they go.

A span is made when its request is done, from times taken anyway: while a request is answered this costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zhiyin.core.errors import MissingExtraError
from zhiyin.core.version import __version__

if TYPE_CHECKING:
    from zhiyin.service.request_context import RequestRecord


class Spans:
    """Sends spans to an address of OTLP over HTTP, in the background; what it cannot send is dropped.

    Parameters
    ----------
    address: such as http://localhost:4318. exporter: instead of it, of OpenTelemetry's own kinds.

    Raises MissingExtraError where OpenTelemetry is not installed.
    """

    def __init__(self, address: str | None, exporter: Any = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter(endpoint=f"{(address or '').rstrip('/')}/v1/traces", timeout=5)
        except ImportError:
            raise MissingExtraError("opentelemetry-sdk", "otel", "sending traces of requests") from None
        resource = Resource.create({"service.name": "zhiyin", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("zhiyin")
        self._trace, self._read = trace, TraceContextTextMapPropagator().extract
        self._failed = trace.Status(trace.StatusCode.ERROR)

    def done(self, seen: RequestRecord) -> None:
        """The spans of a request; a child of the caller's, where it says whose."""
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in seen.headers
                   if name in (b"traceparent", b"tracestate")}  # fmt: skip
        about: dict[str, Any] = {
            "http.request.method": seen.method, "http.route": seen.route,
            "http.response.status_code": seen.status, "zhiyin.request": seen.id,
        }  # fmt: skip
        if seen.shop:
            about["zhiyin.shop"] = seen.shop
        span = self._tracer.start_span(
            f"{seen.method} {seen.route}", context=self._read(carrier) if carrier else None,
            kind=self._trace.SpanKind.SERVER, attributes=about, start_time=seen.begun,
        )  # fmt: skip
        if span.is_recording():
            inside = self._trace.set_span_in_context(span)
            for end, seconds in seen.lists:
                at = end - int(1e9 * sum(seconds.values()))
                for stage, took in seconds.items():
                    child = self._tracer.start_span(stage, context=inside, start_time=at)
                    at += int(1e9 * took)
                    child.end(at)
        if seen.status >= 500:
            span.set_status(self._failed)
        span.end(seen.begun + int(1e9 * seen.seconds))

    def flush(self) -> None:
        """Send what waits, now."""
        self._provider.force_flush(5_000)

    def close(self) -> None:
        """Send what waits, then stop."""
        self._provider.shutdown()
