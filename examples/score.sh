#!/bin/sh
# The worked example of README.md: two workflows, a webhook with an API key, two calls, the history of the first.
#
#     sh examples/score.sh EMAIL PASSWORD [URL]
#
# The score workflow calls the directory workflow on the same server, so the server must be allowed to call itself:
# `make run` does that (WEIR_EGRESS_ALLOW=127.0.0.1:8000).
set -eu
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 64; }
email=$1 password=$2 url=${3:-http://127.0.0.1:8000}
here=$(dirname "$0")
json='Content-Type: application/json'

call() { curl -sS --fail-with-body "$@"; }
field() { grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4; }
show() { printf '\n# %s\n' "$1"; }

token=$(call "$url/api/v1/auth/token" -H "$json" -d "{\"email\":\"$email\",\"password\":\"$password\"}" | field access_token)
auth="Authorization: Bearer $token"

show 'a workflow that knows customers, with a GET webhook'
directory=$(call "$url/api/v1/workflows" -H "$auth" -H "$json" -d @"$here/customers.json" | field webhook_url)
echo "$directory"

show 'a workflow that fetches a customer, scores, branches and answers'
workflow=$(sed "s|DIRECTORY|$url$directory|" "$here/score.json" | call "$url/api/v1/workflows" -H "$auth" -H "$json" -d @- | field id)
echo "$workflow"

show 'a webhook for it that asks for an API key'
webhook=$(call "$url/api/v1/webhooks/$workflow/triggers" -H "$auth" -H "$json" \
    -d '{"name":"orders","auth_type":"api_key","auth_config":{"api_key":"orders-0123456789abcdef"}}' | field webhook_url)
echo "$webhook"

show 'an order of a good customer'
call "$url$webhook" -H 'X-API-Key: orders-0123456789abcdef' -H "$json" -d '{"customer":"42","amount":100}'
echo
show 'an order of a new one'
call "$url$webhook" -H 'X-API-Key: orders-0123456789abcdef' -H "$json" -d '{"customer":"7","amount":100}'
echo
show 'without the key'
curl -sS "$url$webhook" -H "$json" -d '{"customer":"42","amount":100}'
echo

show 'the history of the first order'
call "$url/api/v1/workflows/$workflow/executions?skip=1&limit=1" -H "$auth" | python3 -c '
import json, sys
def compact(value):
    if isinstance(value, dict) and "body" in value:
        value = {key: value[key] for key in value if key != "headers"}  # of an HTTP answer: long, and of no interest here
    return json.dumps(value, ensure_ascii=False)
def clock(time):
    return time[11:26] if time else "-"
(run,) = json.load(sys.stdin)
print(run["execution_id"], run["status"], "version", run["version"], "by", run["trigger"]["type"], "in", run["execution_time"], "s")
print("  input  " + compact(run["input_data"]))
print("  output " + compact(run["output_data"]))
for step in run["step_executions"]:
    print("{step_id}: {type}, {status}, attempt {attempt}, {from_} to {to}".format(
        from_=clock(step["started_at"]), to=clock(step["completed_at"]), **step))
    print("  input  " + compact(step["input_data"]))
    print("  output " + compact(step["output_data"]))
'
