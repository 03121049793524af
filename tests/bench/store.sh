# shellcheck shell=bash
# A store of its own for a benchmark, on the ports of `quire up`; sourced from the repository's root. Sets `quire`, the
# binary, and `work`, a directory that goes with the store when the script ends. Further work of ending: `and_end`.

quire=${QUIRE:-target/release/quire}
[ -x "$quire" ] || { echo "$quire is missing; run cargo build --release" >&2; exit 69; }

work=$(mktemp -d)
and_end() { :; }
end_store() {
    and_end
    kill -TERM "$up" 2>/dev/null || true
    wait "$up" 2>/dev/null || true
    rm -rf "$work"
}
"$quire" up --data-dir "$work/store" >"$work/up.out" 2>&1 &
up=$!
trap end_store EXIT
for _ in $(seq 200); do grep -q '^ready' "$work/up.out" && break; sleep 0.1; done
grep -q '^ready' "$work/up.out" || { cat "$work/up.out" >&2; exit 69; }
