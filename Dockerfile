# One image with the agent, the hook and the command line. Either of
#
#   cargo xtask image                  on a base and with programs that are made here: no registry is asked
#   docker build --tag oarlock .       from the images that docker knows
#
# A base of one's own is another Debian (--build-arg BASE=...), or whatever has glibc, libhwloc15 and libudev1
# (--build-context base=docker-image://...).
ARG BASE=debian:trixie-slim
ARG BUILDER=rust:1-trixie

FROM ${BUILDER} AS programs
RUN apt-get update && apt-get install -y --no-install-recommends libhwloc-dev libudev-dev pkg-config
WORKDIR /source
COPY . .
# The hook is copied to hosts, whose C library may be another one: it has its own inside.
RUN TARGET="$(uname -m)-unknown-linux-musl" && rustup target add "$TARGET" \
    && cargo build --release --locked --package oarlock-agent --package oarlock-cli \
    && cargo build --release --locked --package oarlock-hook --target "$TARGET" \
    && cp target/release/oarlock target/release/oarlock-agent "target/$TARGET/release/oarlock-hook" /

FROM ${BASE} AS base
RUN apt-get update && apt-get install -y --no-install-recommends libhwloc15 libudev1 && rm -rf /var/lib/apt/lists/*

FROM base
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Oarlock" \
    org.opencontainers.image.description="Holds every rank of a training job at the CPUs and the memory next to its GPU" \
    org.opencontainers.image.source="https://github.com/oarlock/oarlock" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=programs /oarlock* /usr/local/bin/
ENV PATH=/usr/local/bin:/usr/bin:/bin
# For the command line. The agent's pod asks for root, whose the files of cgroups are.
USER 65534:65534
ENTRYPOINT ["oarlock"]
