# The web app, or the REST API, or `predict`; without TensorFlow.
#   docker build -t metal-defects .
#   docker run -p 8000:8000 metal-defects
#   docker run -p 8000:8000 -e METAL_DEFECTS_API_KEY=secret metal-defects api
#   docker run -v "$PWD/images:/images:ro" metal-defects predict /images
# Nothing is written outside /tmp: add --read-only --tmpfs /tmp --cap-drop ALL where that is wanted.

FROM python:3.12.13-slim-trixie AS builder
WORKDIR /build
COPY pyproject.toml setup.py README.md LICENSE constraints.txt params.yaml schema.yaml ./
COPY config config
COPY bundles bundles
COPY src src
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir -c constraints.txt ".[serve,app]"
# What no program of the image opens: tests, C headers, notebook widgets, Arrow's own network protocols.
RUN find /opt/venv -depth \( -type d \( -name tests -o -name include -o -name nbextension -o -path '*/share/jupyter' \) \
    -o -path '*/pyarrow/*flight*' -o -path '*/pyarrow/*s3*' \) -exec rm -rf {} +

FROM python:3.12.13-slim-trixie
LABEL org.opencontainers.image.title="metal-defects" \
    org.opencontainers.image.description="Web app and REST API that name defects in images of metal surfaces" \
    org.opencontainers.image.licenses="Apache-2.0"
# Two memory arenas instead of eight per core keep the size of a busy server steady.
ENV PATH="/opt/venv/bin:$PATH" \
    PORT=8000 \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    METAL_DEFECTS__PATHS__LOGS=/tmp/logs \
    STREAMLIT_SERVER_HEADLESS=true \
    STREAMLIT_SERVER_FILE_WATCHER_TYPE=none \
    STREAMLIT_BROWSER_GATHER_USAGE_STATS=false
WORKDIR /app
COPY --from=builder /opt/venv /opt/venv
COPY st_app_predict.py ./
COPY .streamlit .streamlit
COPY docker docker
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --start-interval=1s \
    CMD ["python", "/app/docker/healthcheck.py"]
ENTRYPOINT ["/app/docker/entrypoint.sh"]
CMD ["app"]
