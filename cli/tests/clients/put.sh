#!/usr/bin/env bash
# Submit a workload in the plain NATS protocol, with bash alone, and print the reply: put.sh HOST PORT LATTICE SPEC.yaml
set -euo pipefail
export LC_ALL=C # lengths are bytes
host=$1 port=$2 lattice=$3 file=$4

spec=$(cat "$file"; printf x)
spec=${spec%x}
inbox=_INBOX.$RANDOM$RANDOM$RANDOM.1

exec 3<>"/dev/tcp/$host/$port"
printf 'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n' >&3
printf 'SUB %s 1\r\nPUB lattice.%s.ctl.workload.put %s %s\r\n%s\r\n' "$inbox" "$lattice" "$inbox" "${#spec}" "$spec" >&3

while IFS=' ' read -r -t 20 -u 3 operation _ _ size total; do
    case $operation in
        PING*) printf 'PONG\r\n' >&3 ;;
        # The reply without headers: MSG subject sid size.
        MSG) IFS= read -r -N "${size%$'\r'}" -u 3 body; printf '%s\n' "$body"; exit 0 ;;
        # With headers: HMSG subject sid header-size size. The headers end with an empty line.
        HMSG) IFS= read -r -N "${total%$'\r'}" -u 3 body; printf '%s\n' "${body:$size}"; exit 0 ;;
        -ERR*) echo "the server refused" >&2; exit 1 ;;
    esac
done
echo "no answer" >&2
exit 1
