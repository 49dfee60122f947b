#!/bin/bash
# A tool for lockstep: adds two numbers. Each line on stdin is a call, {"arguments": {"sum":
# "417+385"}, …}, and is answered by a line, {"content": "802"} or {"error": TEXT}.
# SPDX-License-Identifier: Apache-2.0
while IFS= read -r call; do
  if [[ $call =~ \"sum\":\ ?\"([0-9]{1,9})\+([0-9]{1,9})\" ]]; then
    echo "{\"content\": \"$((10#${BASH_REMATCH[1]} + 10#${BASH_REMATCH[2]}))\"}"
  else
    echo '{"error": "expected two numbers with a plus between them as sum"}'
  fi
done
