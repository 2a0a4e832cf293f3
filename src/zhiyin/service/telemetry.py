"""OpenTelemetry spans of requests and of the stages of their lists, where the settings name an address.

A span is made when its request has ended, from times that are measured anyway: answering a request costs nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zhiyin.core.errors import MissingExtraError
from zhiyin.core.version import __version__

if TYPE_CHECKING:
    from zhiyin.service.request_context import RequestRecord


class Spans:
    """Sends spans to an OTLP address over HTTP, in the background; spans that cannot be sent are dropped.

    Parameters
    ----------
    address: such as http://localhost:4318.
    exporter: an exporter of OpenTelemetry to use instead of the address.

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

    def done(self, request: RequestRecord) -> None:
        """Send the spans of a request; children of the caller's span, where the request names one."""
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers
                   if name in (b"traceparent", b"tracestate")}  # fmt: skip
        attributes: dict[str, Any] = {
            "http.request.method": request.method, "http.route": request.route,
            "http.response.status_code": request.status, "zhiyin.request": request.id,
        }  # fmt: skip
        if request.shop:
            attributes["zhiyin.shop"] = request.shop
        span = self._tracer.start_span(
            f"{request.method} {request.route}", context=self._read(carrier) if carrier else None,
            kind=self._trace.SpanKind.SERVER, attributes=attributes, start_time=request.begun,
        )  # fmt: skip
        if span.is_recording():
            inside = self._trace.set_span_in_context(span)
            for end, seconds in request.lists:
                at = end - int(1e9 * sum(seconds.values()))
                for stage, took in seconds.items():
                    child = self._tracer.start_span(stage, context=inside, start_time=at)
                    at += int(1e9 * took)
                    child.end(at)
        if request.status >= 500:
            span.set_status(self._failed)
        span.end(request.begun + int(1e9 * request.seconds))

    def flush(self) -> None:
        """Send waiting spans now."""
        self._provider.force_flush(5_000)

    def close(self) -> None:
        """Send waiting spans, then stop."""
        self._provider.shutdown()
