"""The ASGI application, for `fastapi run main.py` and any other server."""

from gateway.app import create_app

app = create_app()
