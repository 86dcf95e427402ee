# Builds the image of snigate: one static binary, one configuration file and the certificates of public authorities (for
# `snigate doctor` and health checks that verify), on nothing: no shell, no packages, no C library.
#
#   docker build -t snigate:dev .
#   docker build -t snigate:dev --build-arg REVISION="$(git rev-parse HEAD)" --build-arg VERSION=0.1.0 .
#   docker build -t snigate:dev --build-arg FEATURES=ech,kubernetes,mimalloc .     # with Gateways of Kubernetes
#
# podman and buildah need `--format docker`, or they drop the HEALTHCHECK. A release puts binaries that are built already into
# the image, by replacing the stage `build`: `docker buildx build --build-context build=DIRECTORY`, with DIRECTORY/out as below.

FROM rust:1-bookworm AS build
WORKDIR /src
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates musl-tools \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$(uname -m)-unknown-linux-musl" \
    && cargo install cargo-auditable@0.7.7 --locked

# The dependencies alone, in a layer that stays until the manifest or the lock file changes. Tables such as
# [[bench]] name files that are not here yet, so they are cut from this layer's manifest. `clean` then removes what
# the two empty files below became, or their newer timestamps could pass for a finished build of the real ones.
COPY Cargo.toml Cargo.lock ./
COPY deploy/package/build.sh deploy/package/
ARG FEATURES=ech,mimalloc
RUN awk '/^\[/ { cut = /^\[\[/ } !cut' Cargo.toml > cut.toml \
    && mv cut.toml Cargo.toml \
    && mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && SNIGATE_FEATURES="$FEATURES" SNIGATE_AUDITABLE=require deploy/package/build.sh \
    && cargo clean --release --locked --target "$(uname -m)-unknown-linux-musl" --package snigate \
    && rm -r src

COPY . .
ARG REVISION=unknown
RUN SNIGATE_FEATURES="$FEATURES" SNIGATE_REVISION="$REVISION" SNIGATE_AUDITABLE=require deploy/package/build.sh \
    && install -D -m 755 target/*/release/snigate /out/usr/local/bin/snigate \
    && install -D -m 644 deploy/container.yaml /out/etc/snigate/config.yaml \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM scratch
COPY --from=build /out/ /

# A number, so that Kubernetes can see that `runAsNonRoot` holds.
USER 65532:65532
EXPOSE 8443 9901
# snigate drains on it.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/snigate", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/snigate"]

ARG REVISION=unknown
ARG VERSION=dev
LABEL org.opencontainers.image.title="snigate" \
      org.opencontainers.image.description="Layer-4 load balancer that routes TLS by server name (SNI) without decrypting it" \
      org.opencontainers.image.url="https://github.com/snigate/snigate" \
      org.opencontainers.image.source="https://github.com/snigate/snigate" \
      org.opencontainers.image.documentation="https://github.com/snigate/snigate/blob/main/docs/deployment.md" \
      org.opencontainers.image.vendor="The snigate authors" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
