"""Routes for whoever runs the gateway."""

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import Connection, text

from gateway.store.engine import Database
from gateway.wire.answers import Problem


class Health(BaseModel):
    status: str = Field(description="`ok`: the process answers and the database can be read.", examples=["ok"])


def router(database: Database) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz", responses={503: {"model": Problem, "description": "The database cannot be read."}})
    async def health() -> Health:
        """Whether the gateway can serve."""
        await database.read(_answers)
        return Health(status="ok")

    return routes


def _answers(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))
