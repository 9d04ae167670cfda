"""From the outbox to the collector: claim, send, settle."""
