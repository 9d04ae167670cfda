"""What is logged, and how."""

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logs(*, access_log: bool) -> None:
    """Log what the gateway says from INFO up; requests only if asked for.

    Called when serving begins: the server sets up its own logging after it has imported the application.
    """
    logger = logging.getLogger("gateway")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
    if not access_log:
        # `fastapi run` turns it on without asking. uvicorn looks for handlers when a connection is made.
        access = logging.getLogger("uvicorn.access")
        access.handlers.clear()
        access.propagate = False
