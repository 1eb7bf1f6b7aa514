# The image of l3hpc for Docker and Podman; run this in the clone:
#
#   docker build --tag l3hpc .
#   docker build --build-arg EXTRAS=fast,gpu --tag l3hpc:gpu .
#   docker build --build-arg EXTRAS=fast,gpu,torch --tag l3hpc:torch .   # --engine torch
#
# docs/containers.md says how it is used; l3hpc.def makes the same image for Apptainer.

ARG BASE=debian:trixie-slim

FROM ${BASE} AS python
RUN export DEBIAN_FRONTEND=noninteractive && apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# a wheel, as a user would install it: nothing of the clone may be needed at run time
FROM python AS wheel
COPY . /usr/src/l3hpc
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip wheel --quiet --no-deps --wheel-dir /usr/src/wheels /usr/src/l3hpc

FROM python
ARG EXTRAS=fast
RUN --mount=type=bind,from=wheel,source=/usr/src/wheels,target=/usr/src/wheels \
    python3 -m venv /opt/l3hpc \
    && for wheel in /usr/src/wheels/l3hpc-*.whl; do \
           /opt/l3hpc/bin/pip install --quiet --no-cache-dir "$wheel[$EXTRAS]" || exit 1; \
       done
ENV PATH=/opt/l3hpc/bin:$PATH
# results belong to this user, and not to root; --user takes another one
RUN useradd --create-home --uid 1000 l3hpc && install -d -o l3hpc -g l3hpc /work
USER l3hpc
WORKDIR /work
ENTRYPOINT ["l3hpc"]
CMD ["--help"]
