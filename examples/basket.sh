#!/bin/sh
# The second worked example of README.md: a loop with a child execution for each item, a run that somebody cancels, a replay from a step.
#
#     sh examples/basket.sh EMAIL PASSWORD [URL]
set -eu
[ $# -ge 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 64; }
email=$1 password=$2 url=${3:-http://127.0.0.1:8000}
here=$(dirname "$0")
json='Content-Type: application/json'

call() { curl -sS --fail-with-body "$@"; }
field() { grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4; }
show() { printf '\n# %s\n' "$1"; }
# An execution, one line for each of its steps.
tell() {
    python3 -c '
import json, sys
run = json.load(sys.stdin)
print(run["execution_id"], run["status"], json.dumps(run["output_data"] and run["output_data"]["body"]))
for step in run["step_executions"]:
    of = "".join("[%d]" % i for i in step.get("iteration", []))
    inside = "  " if of else ""
    why = ": " + step["error"]["code"] if step["error"] else ""
    print("  {}{}{}, {}, {}{}".format(inside, step["step_id"], of, step["type"], step["status"], why))
'
}

token=$(call "$url/api/v1/auth/token" -H "$json" -d "{\"email\":\"$email\",\"password\":\"$password\"}" | field access_token)
auth="Authorization: Bearer $token"
orders='[{"item":"book","quantity":2},{"item":"lamp","quantity":1},{"item":"book","quantity":10},{"item":"yacht","quantity":1}]'

show 'a workflow that prices one order, and one that runs it for each order of a basket, three at a time'
child=$(call "$url/api/v1/workflows" -H "$auth" -H "$json" -d @"$here/price.json" | field id)
basket=$(sed "s|CHILD|$child|" "$here/basket.json" | call "$url/api/v1/workflows" -H "$auth" -H "$json" -d @- | field id)
echo "$child $basket"

show 'four orders; nobody sells yachts'
first=$(call "$url/api/v1/workflows/$basket/execute" -H "$auth" -H "$json" -d "{\"input_data\":{\"think_ms\":1,\"orders\":$orders}}")
printf "%s" "$first" | tell

show 'the same, but somebody thinks again: the run waits, and is cancelled'
second=$(call "$url/api/v1/workflows/$basket/execute?wait=1" -H "$auth" -H "$json" -d "{\"input_data\":{\"think_ms\":600000,\"orders\":$orders}}" | field execution_id)
call "$url/api/v1/executions/$second" -H "$auth" | field status
call "$url/api/v1/executions/$second/cancel" -X POST -H "$auth" >/dev/null
# its events end when it has
call "$url/api/v1/executions/$second/events" -H "$auth" | grep '^event: execution'
call "$url/api/v1/executions/$second" -H "$auth" | tell

show 'played again from its sum, with no time to think: what was priced stays, in a new execution that names the old one'
third=$(call "$url/api/v1/executions/$second/replay" -H "$auth" -H "$json" -d "{\"from_step\":\"sum\",\"input_data\":{\"think_ms\":1,\"orders\":$orders}}")
printf "%s" "$third" | tell
printf "%s" "$third" | field parent_id
