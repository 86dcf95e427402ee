# Builds the image of snigate: one binary and one configuration file on a base without shell or packages.
#
#   docker build -t snigate:dev .
#   docker build -t snigate:dev --build-arg REVISION="$(git rev-parse HEAD)" .
#
# podman and buildah need `--format docker`, or they drop the HEALTHCHECK.

FROM rust:1-bookworm AS build
WORKDIR /src

# The dependencies alone, in a layer that stays until the manifest or the lock file changes. Tables such as
# [[bench]] name files that are not here yet, so they are cut from this layer's manifest. `clean` then removes what
# the two empty files below became, or their newer timestamps could pass for a finished build of the real ones.
COPY Cargo.toml Cargo.lock ./
RUN awk '/^\[/ { cut = /^\[\[/ } !cut' Cargo.toml > cut.toml \
    && mv cut.toml Cargo.toml \
    && mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && cargo clean --release --locked --package snigate \
    && rm -r src

COPY . .
ARG REVISION=unknown
RUN SNIGATE_REVISION="$REVISION" cargo build --release --locked --bin snigate

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/snigate /usr/local/bin/snigate
COPY deploy/container.yaml /etc/snigate/config.yaml

# The base's user `nonroot`, by number, so that Kubernetes can see that `runAsNonRoot` holds.
USER 65532:65532
EXPOSE 8443 9901
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/snigate", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/snigate"]

ARG REVISION=unknown
LABEL org.opencontainers.image.title="snigate" \
      org.opencontainers.image.description="Routes TLS by its server name without decrypting it" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
