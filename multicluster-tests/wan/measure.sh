#!/usr/bin/env bash
# Measures isthmus-wan between two namespaces: what it adds to a round trip, what it carries, how punctual it is. Needs root.
#   cargo build --release -p isthmus-wan && multicluster-tests/wan/measure.sh target/release/isthmus-wan [rounds]
set -euo pipefail
wan="${1:?the program, such as target/release/isthmus-wan}"
rounds="${2:-5}"
left="wanm-$$-l"; right="wanm-$$-r"; dir="$(mktemp -d)"; pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  ip netns del "$left" || true; ip netns del "$right" || true; rm -rf "$dir"
}
trap cleanup EXIT
ip netns add "$left"; ip netns add "$right"
inl() { ip netns exec "$left" "$@"; }
inr() { ip netns exec "$right" "$@"; }

# A wire of the kernel, to compare with.
ip -n "$left" link add wire0 type veth peer name wire0 netns "$right"
ip -n "$left" addr add 10.8.0.1/30 dev wire0; ip -n "$left" link set wire0 up
ip -n "$right" addr add 10.8.0.2/30 dev wire0; ip -n "$right" link set wire0 up

"$wan" run --left "$left" --right "$right" --left-address 10.9.0.1/30 --right-address 10.9.0.2/30 --control "$dir/sock" --seed 1 2>"$dir/log" &
pids+=($!)
until [ -S "$dir/sock" ]; do kill -0 "${pids[0]}"; done
grep -o 'priority=.*' "$dir/log"
ip netns exec "$right" iperf3 -s >/dev/null & pids+=($!)
until inr ss -Hltn 'sport = 5201' | grep -q .; do :; done

set_to() { "$wan" set --control "$dir/sock" "$@" >/dev/null; }
middle() { sort -n | awk '{a[NR]=$1} END {printf "%s (%s – %s)\n", a[int((NR+1)/2)], a[1], a[NR]}'; }
rtt() { inl ping -n -c "$2" -i "$3" "$1" | sed -n 's/.*time=\([0-9.]*\) ms/\1/p' | sort -n | awk '{a[NR]=$1} END {print a[int((NR+1)/2)]}'; }
# Received Mbit/s.
goodput() { inl iperf3 -f m -c 10.9.0.2 "$@" | awk '/receiver/ {for (i = 1; i <= NF; i++) if ($i == "Mbits/sec") print $(i-1)}'; }
late() { "$wan" show --control "$dir/sock" | awk '/^(left|right)-to-.*:$/ {side = $1} /lateness/ {sub(/^ *lateness */, ""); print "  lateness since the start, " side " " $0}'; }

for ((i = 0; i < rounds; i++)); do
  rtt 10.8.0.2 400 0.005 >>"$dir/veth"; rtt 10.9.0.2 400 0.005 >>"$dir/bare"
  goodput -t 5 >>"$dir/tcp"
  goodput -t 5 -R >>"$dir/back"
done
echo "round trip ms, veth:                 $(middle <"$dir/veth")"
echo "round trip ms, bare link:            $(middle <"$dir/bare")"
echo "TCP Mbit/s, left to right:           $(middle <"$dir/tcp")"
echo "TCP Mbit/s, right to left:           $(middle <"$dir/back")"
late
for ((i = 0; i < rounds; i++)); do
  set_to both delay=40ms rate=off queue=off; rtt 10.9.0.2 50 0.02 >>"$dir/rtt80"
  set_to both delay=off rate=20mbit; goodput -t 5 -O 1 >>"$dir/twenty"
  set_to both delay=40ms rate=100mbit queue=1mb; goodput -t 8 -O 3 >>"$dir/hundred"
done
echo "round trip ms, delay=40ms:           $(middle <"$dir/rtt80")"
echo "TCP Mbit/s, rate=20mbit:             $(middle <"$dir/twenty")"
echo "TCP Mbit/s, rate=100mbit delay=40ms: $(middle <"$dir/hundred")"
late
