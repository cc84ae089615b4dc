# syntax=docker/dockerfile:1
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/tessera
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY app ./app
COPY model ./model
RUN /opt/tessera/bin/python -m pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt '.[postgres,otel]' \
 && /opt/tessera/bin/python -m compileall -q /opt/tessera/lib

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Tessera" \
      org.opencontainers.image.description="Self-hosted face verification" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 tessera \
 && useradd --system --uid 10001 --gid tessera --no-create-home --shell /usr/sbin/nologin tessera \
 && install --directory --owner=tessera --group=tessera --mode=0700 /data
COPY --from=build /opt/tessera /opt/tessera
ENV PATH=/opt/tessera/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TESSERA_SERVER__HOST=0.0.0.0 \
    TESSERA_SERVER__PORT=8000 \
    TESSERA_GALLERY__DATA_DIR=/data
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["tessera", "health"]
CMD ["tessera", "serve"]
