#!/bin/bash
# curl against the server: what a person types first.
# SPDX-License-Identifier: Apache-2.0
#
#   curl_client.sh --url http://127.0.0.1:PORT
set -euo pipefail
[ "${1:-}" = --url ] || { echo "usage: curl_client.sh --url URL" >&2; exit 2; }
url=$2

ask() { curl --silent --show-error --max-time 120 "$@"; }
status() { ask --output /dev/null --write-out '%{http_code}' "$@"; }
expect() {
  if [[ "$2" != *"$3"* ]]; then
    echo "$1: expected $3, got: $2" >&2
    exit 1
  fi
}

hello='{"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0}'
expect chat "$(ask "$url/v1/chat/completions" -H 'Content-Type: application/json' -d "$hello")" \
  'Hello there, friend!'
stream=$(ask --no-buffer "$url/v1/chat/completions" -H 'Content-Type: application/json' \
  -d "${hello%\}}, \"stream\": true}")
expect stream "$stream" 'data: {'
expect 'end of a stream' "$(tail -n 2 <<<"$stream")" 'data: [DONE]'
completion='{"prompt": "Hello", "max_tokens": 4, "seed": 1}'
expect completion "$(ask "$url/v1/completions" -H 'Content-Type: application/json' \
  -d "$completion")" '"finish_reason"'
expect tokens "$(ask "$url/tokenize" -H 'Content-Type: application/json' \
  -d '{"prompt": "Hello there"}')" '"count"'
expect health "$(status "$url/health")" 200
expect metrics "$(ask "$url/metrics")" 'vllm:num_requests_running'
expect models "$(ask "$url/v1/models")" '"object"'
expect 'unknown path' "$(status "$url/nowhere")" 404
expect 'wrong method' "$(status "$url/v1/completions")" 405
expect 'bad JSON' "$(status "$url/v1/completions" -H 'Content-Type: application/json' -d '{')" 400
# A body that is sent in pieces, after the server has said that it will have it.
expect 'in pieces' "$(status "$url/v1/completions" -H 'Content-Type: application/json' \
  -H 'Transfer-Encoding: chunked' -H 'Expect: 100-continue' -d "$completion")" 200
echo "passed"
