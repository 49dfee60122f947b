#!/bin/bash
# Brings a Debian 12 machine to where the project builds: Debian's packages, and libtorch out of the
# torch wheel.
# SPDX-License-Identifier: Apache-2.0
#
# Idempotent; a second run takes under a second. Environment:
#   LOCKSTEP_TORCH_DIR  folder `torch` of an installed torch wheel (2.11 or later): nothing is
#                       fetched
#   LOCKSTEP_CUDA=ON    fetch the wheel's CUDA libraries too
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=2.11.0
# What libtorch_cpu.so itself is linked with; the other CUDA wheels are 3 GB that a CPU does not
# need.
cpu_wheels=(nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
packages=(
  g++ cmake ninja-build mold ccache pkg-config git
  nlohmann-json3-dev libfmt-dev libspdlog-dev libyaml-cpp-dev libpcre2-dev
  libutf8proc-dev libxxhash-dev libhwy-dev libzstd-dev
  libgmp-dev libmpfr-dev libboost-dev libcurl4-openssl-dev
  libgtest-dev libgmock-dev libbenchmark-dev clang-format-14
  python3 python3-venv
)

say() { echo "setup: $*" >&2; }
die() {
  say "error: $*"
  exit 1
}

missing_packages() {
  local installed
  # dpkg-query fails if it does not know one of them; what it knows it prints all the same.
  installed=$({
    dpkg-query -W -f='${Package} ${db:Status-Abbrev}\n' "${packages[@]}" 2>/dev/null || true
  } |
    awk '$2 == "ii" {print $1}')
  comm -23 <(printf '%s\n' "${packages[@]}" | sort) <(sort <<<"$installed")
}

install_packages() {
  command -v dpkg-query >/dev/null ||
    die "expected Debian 12 or a relative; elsewhere install what these hold: ${packages[*]}"
  local missing
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -eq 0 ] && return
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      as_root=(sudo)
    else
      die "expected root or sudo to install packages; as root run:" \
        "apt-get install --no-install-recommends ${missing[*]}"
    fi
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends "${missing[@]}" >/dev/null
}

# Version of the torch wheel whose folder `torch` is given; empty if there is none.
version_of() {
  sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$1/version.py" 2>/dev/null || true
}

check_named_torch() {
  local version
  version=$(version_of "$LOCKSTEP_TORCH_DIR")
  [ -n "$version" ] || die "LOCKSTEP_TORCH_DIR: expected the folder torch of an installed wheel," \
    "got $LOCKSTEP_TORCH_DIR"
  [ "$(printf '%s\n' 2.11 "$version" | sort -V | head -n 1)" = 2.11 ] ||
    die "LOCKSTEP_TORCH_DIR: expected torch 2.11 or later, got $version"
  say "libtorch $version in $LOCKSTEP_TORCH_DIR"
}

# Debian's pip where it is installed, else one of our own.
pip_install() {
  local python=python3
  if ! python3 -m pip --version >/dev/null 2>&1; then
    python=.deps/pip/bin/python
    [ -x $python ] || python3 -m venv .deps/pip
  fi
  $python -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-warn-conflicts --only-binary :all: "$@"
}

has_libtorch() {
  [ "$(version_of .deps/libtorch/torch)" = "$torch_version" ] || return 1
  [ -e .deps/libtorch/torch/lib/libtorch_cpu.so ] && [ -d .deps/libtorch/nvidia ] || return 1
  [ "${LOCKSTEP_CUDA:-OFF}" != ON ] || [ -d .deps/libtorch/nvidia/nccl ]
}

# Unpacked under another name and moved when whole, so that an interrupted run leaves no half of it.
fetch_libtorch() {
  local staging=.deps/libtorch.tmp-$$
  trap 'rm -rf .deps/libtorch.tmp-$$' EXIT
  if [ "${LOCKSTEP_CUDA:-OFF}" = ON ]; then
    say "fetching torch $torch_version with its CUDA libraries (about 2 GB)"
    pip_install --target $staging "torch==$torch_version"
  else
    say "fetching torch $torch_version (about 550 MB)"
    pip_install --no-deps --target $staging "torch==$torch_version" "${cpu_wheels[@]}"
  fi
  [ -e $staging/torch/lib/libtorch_cpu.so ] ||
    die "expected libtorch_cpu.so in the wheel of torch $torch_version, got none"
  rm -rf .deps/libtorch
  mv $staging .deps/libtorch
}

install_packages
mkdir -p .deps
exec 9>.deps/.setup.lock
flock 9
if [ -n "${LOCKSTEP_TORCH_DIR:-}" ]; then
  check_named_torch
elif ! has_libtorch; then
  fetch_libtorch
fi
say "ready"
