#!/bin/bash
# Sets up, builds and tests. The program then stands at build/bin/lockstep.
# SPDX-License-Identifier: Apache-2.0
#
#   tools/test.sh [all]        house rules, then the lanes unit, parity and e2e
#   tools/test.sh unit|parity|e2e
#                              one lane
#   tools/test.sh asan         all lanes under the address and undefined-behaviour sanitizers
#                              (half an hour and more)
#   tools/test.sh tsan         the unit tests without libtorch under the thread sanitizer
#   tools/test.sh vllm         compares with the real vLLM, which it installs first (6 GB; a quarter
#                              of an hour)
#   tools/test.sh hygiene      builds without precompiled headers: every file includes what it uses
set -euo pipefail
cd "$(dirname "$0")/.."

lane=${1:-all}
# Two tests run at once, so that waiting threads must leave the processor to the others.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1

# Runs a step and tells how long it took.
timed() {
  local name=$1 start=$SECONDS
  shift
  "$@"
  echo "test: $name took $((SECONDS - start)) s"
}

build() {
  cmake --preset "$1" >/dev/null
  ninja -C "$2" --quiet
}

run_ctest() {
  local folder=$1
  shift
  ctest --test-dir "$folder" -j2 --output-on-failure --no-tests=error \
    --output-junit test-results.xml "$@"
}

case $lane in
  all)
    timed set-up tools/setup.sh
    timed "house rules" tools/check.sh
    timed comparisons tools/python.sh
    timed browser tools/browser.sh
    timed build build release build
    run_ctest build -L 'unit|parity|e2e'
    ;;
  unit | parity | e2e)
    timed set-up tools/setup.sh
    [ "$lane" = unit ] || timed comparisons tools/python.sh
    [ "$lane" != e2e ] || timed browser tools/browser.sh
    timed build build release build
    run_ctest build -L "^$lane\$"
    ;;
  asan)
    timed set-up tools/setup.sh
    timed comparisons tools/python.sh
    timed build build asan build-asan
    # Frames are several times as large with the sanitizer, and some tests nest deeply.
    ulimit -s 65536 2>/dev/null || true
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    run_ctest build-asan --timeout 3600
    ;;
  tsan)
    timed set-up tools/setup.sh
    cmake --preset tsan >/dev/null
    timed build ninja -C build-tsan --quiet torch_free_tests
    options=halt_on_error=1:second_deadlock_stack=1:suppressions=$PWD/tools/tsan_suppressions.txt
    # A test sees how a program dies by these signals.
    for signal in segv sigbus sigfpe sigill abort; do options+=:handle_$signal=0; done
    export TSAN_OPTIONS=$options
    # Where the kernel scatters addresses widely, the sanitizer of GCC 12 does not start.
    run=(setarch -R)
    "${run[@]}" true 2>/dev/null || run=()
    run_ctest build-tsan -L '^torch_free$' --timeout 1800
    ;;
  vllm)
    timed set-up tools/setup.sh
    timed comparisons tools/python.sh
    timed vLLM tools/vllm.sh
    timed build build release build
    python=.deps/python/bin/python
    timed plugin .deps/vllm/bin/python -m unittest discover -s tests/vllm_plugin -p '*_test.py'
    timed adapters $python tools/parity/vllm_adapters.py --program build/bin/lockstep
    timed layouts $python tools/parity/vllm_layouts.py --program build/bin/lockstep
    timed updates $python tools/parity/vllm_updates.py --program build/bin/lockstep
    timed training $python tools/parity/vllm_grpo.py --program build/bin/lockstep
    ;;
  hygiene)
    timed set-up tools/setup.sh
    timed build build hygiene build-hygiene
    ;;
  *)
    echo "test: expected all, unit, parity, e2e, asan, tsan, vllm or hygiene, got $lane" >&2
    exit 2
    ;;
esac
