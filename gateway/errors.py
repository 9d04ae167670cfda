"""What can go wrong, as the domain says it. HTTP is not known here; `gateway.api.problems` maps these to answers.

PerfTracerError
├── StartError              the process cannot start; its message is one clear line
│   ├── SettingsError
│   └── SchemaError
├── DeliveryOff             there is nobody to deliver to
├── EventError              the client's fault; a retry of the same event changes nothing
│   ├── TraceNotFound
│   └── TraceConflict
└── Unavailable             ours or the database's fault; a later retry may succeed
    ├── QueueFull
    └── StoreUnavailable
"""


class PerfTracerError(Exception):
    """Something went wrong in perf-tracer."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        return str(self)


class StartError(PerfTracerError):
    """The gateway cannot start."""


class SettingsError(StartError):
    """A setting has a value that cannot be used."""


class SchemaError(StartError):
    """The database has a schema that this version cannot serve."""


class DeliveryOff(PerfTracerError):
    """Delivery is turned off by OTEL_TRACES_EXPORTER=none."""


class EventError(PerfTracerError):
    """The event cannot be applied."""


class TraceNotFound(EventError):
    """Trace not found."""


class TraceConflict(EventError):
    """The event contradicts what is already known of its trace."""


class Unavailable(PerfTracerError):
    """The gateway cannot take this now. Try again later."""

    retry_after_seconds = 1


class QueueFull(Unavailable):
    """Too many events are waiting to be stored. Try again later."""


class StoreUnavailable(Unavailable):
    """The database cannot be used now. Try again later."""
