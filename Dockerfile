# syntax=docker/dockerfile:1
FROM python:3.12-slim-bookworm AS build
WORKDIR /app
COPY requirements/base.txt requirements/base.txt
RUN python -m venv /opt/facesearch \
    && /opt/facesearch/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/base.txt
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY recognition recognition
COPY indexer indexer
COPY service service
COPY migrations migrations
RUN /opt/facesearch/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable .

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin facesearch \
    && install -d -o facesearch -g facesearch /data
COPY --from=build /opt/facesearch /opt/facesearch
COPY --from=build /app /app
ENV PATH=/opt/facesearch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FACESEARCH_HOME=/data
USER 10001
WORKDIR /app
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# Another address than 127.0.0.1 needs API keys (facesearch keys create, FACESEARCH_API_KEYS); without one the service ends.
CMD ["facesearch", "serve", "--host", "0.0.0.0", "--port", "8000"]
