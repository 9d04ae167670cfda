"""perf-tracer: a tracing gateway between plain JSON events and OpenTelemetry."""
