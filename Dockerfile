# Two stages, so that what builds the gateway is not shipped with it.
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements-build.txt ./
RUN pip install --require-hashes --no-deps -r requirements-build.txt
COPY requirements.txt ./
RUN python -m venv --without-pip /opt/perf-tracer
RUN pip --python /opt/perf-tracer install --require-hashes --no-deps -r requirements.txt
# As a wheel: the version that the API shows is read from the installed distribution.
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
RUN pip wheel --no-deps --no-build-isolation --wheel-dir wheels .
RUN pip --python /opt/perf-tracer install --no-deps --no-index wheels/*.whl

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway \
    # A new volume takes the owner of the folder it is mounted on.
    && install --directory --owner gateway --group gateway /data
WORKDIR /app
COPY --from=build /opt/perf-tracer /opt/perf-tracer
COPY main.py ./
ENV PATH=/opt/perf-tracer/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PERF_TRACER_DATABASE_URL=sqlite:////data/perf-tracer.db
VOLUME /data
EXPOSE 8000
USER gateway
CMD ["fastapi", "run", "main.py", "--port", "8000"]
