# One image with both programs, framekeeper-operator and framekeeper-recorder; the pod says which one it runs.
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" -t framekeeper .
# Where no image registry is reachable, BUILDER and BASE are made on the spot: e2e/cluster/images.
#
# BUILDER: Debian 12 with the Rust of rust-toolchain.toml. BASE: Debian 12 too, because the programs need the C library they were linked with.
ARG BUILDER=docker.io/library/rust:1.95.0-slim-bookworm
ARG BASE=docker.io/library/debian:bookworm-slim

# ---- what compiling needs; a stage of its own, so that it is kept when sources change
FROM ${BUILDER} AS toolchain
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev make pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev \
 && rm -rf /var/lib/apt/lists/*

# ---- the programs
# The cache keeps what was compiled: after a changed line only what depends on it is compiled again. It belongs to no layer, so the programs
# are copied out of it. Of e2e/ there are manifests only (.dockerignore), and Cargo wants each to have a source file.
FROM toolchain AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,id=framekeeper-target,target=/src/target,sharing=locked \
    for manifest in e2e/Cargo.toml e2e/*/Cargo.toml; do mkdir -p "${manifest%/*}/src"; touch "${manifest%/*}/src/lib.rs"; done \
 && cargo build --release --locked -p framekeeper-operator -p framekeeper-recorder --bin framekeeper-operator --bin framekeeper-recorder \
 && mkdir /programs \
 && cp target/release/framekeeper-operator target/release/framekeeper-recorder /programs/

# ---- what decoding a still picture needs (recorder/src/still.rs): six plugins of GStreamer, and the libraries these are linked with
# WHY not apt-get install in the image itself: the packages hold hundreds of plugins, and bring 850 MB because any of them could be wanted.
# What the files came from goes with them: status.d is what vulnerability scanners read, copyright the licences.
# The registry is GStreamer's list of its plugins. It cannot be written into a read-only root file system, and without one each picture would
# begin with loading every plugin.
# The user is in /etc/passwd only because its group would be root's otherwise, where a pod names none.
FROM ${BASE} AS decoder
RUN mkdir -p /out/etc \
 && cp /etc/passwd /etc/group /out/etc/ \
 && echo 'framekeeper:x:65532:65532::/nonexistent:/usr/sbin/nologin' >>/out/etc/passwd \
 && echo 'framekeeper:x:65532:' >>/out/etc/group \
 && dpkg-query -W -f '${Package}\n' >/base-packages \
 && apt-get update \
 && apt-get install -y --no-install-recommends gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav gstreamer1.0-tools \
 && rm -rf /var/lib/apt/lists/*
RUN set -eu; \
    plugins=$(echo /usr/lib/*-linux-gnu/gstreamer-1.0); \
    mkdir /kept; \
    for name in app coreelements jpeg libav videoconvertscale videoparsersbad; do mv "$plugins/libgst$name.so" /kept/; done; \
    rm -r "$plugins"; \
    mv /kept "$plugins"; \
    libraries=$(ldd "$plugins"/*.so | awk '$3 ~ /^\// {print $3}' | sort -u); \
    for file in "$plugins"/*.so $libraries; do \
      package=$(dpkg-query -S "*/$(basename "$(realpath "$file")")" | head -n 1 | cut -d : -f 1); \
      if grep -qx "$package" /base-packages; then continue; fi; \
      folder=/out$(realpath "$(dirname "$file")") papers=/out/usr/share/doc/$package; \
      mkdir -p "$folder" "$papers" /out/var/lib/dpkg/status.d; \
      cp -pL "$file" "$folder/"; \
      cp -pL "/usr/share/doc/$package/copyright" "$papers/"; \
      dpkg-query -s "$package" >"/out/var/lib/dpkg/status.d/$package"; \
    done; \
    registry=/out/usr/share/framekeeper/gstreamer-registry.bin; \
    mkdir -p "${registry%/*}"; \
    GST_REGISTRY=$registry gst-inspect-1.0 avdec_h264 >/dev/null; \
    chmod 644 "$registry"

# ---- the image: what changes least comes first
FROM ${BASE} AS image
COPY --from=decoder /out/ /
ENV GST_REGISTRY=/usr/share/framekeeper/gstreamer-registry.bin
COPY LICENSE /usr/share/doc/framekeeper/copyright
COPY --from=build /programs/ /usr/local/bin/
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Framekeeper" \
      org.opencontainers.image.description="Records IP cameras on Kubernetes, and keeps every frame: operator and recorder" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# By number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
# No shell and no program of its own choosing: which of the two it is, the pod says.
ENTRYPOINT []
CMD ["framekeeper-operator", "--help"]
