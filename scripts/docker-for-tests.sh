#!/usr/bin/env bash
# A Docker for the tests: prints the socket of the one that runs, or of one that it starts, and makes an image of this
# machine's Redis there (no registry is asked). Fails, with the reason, where none can run.
#
# The daemon that it starts is the tests' own, and stays for the next ones; `docker-for-tests.sh down` ends it.
set -euo pipefail
die() { printf '%s\n' "$*" >&2; exit 1; }

own=/run/trine-docker
data=/var/lib/docker-trine
image=trine-tests/redis:1

if [ "${1:-}" = down ]; then
    if [ -f "$own/pid" ]; then kill "$(cat "$own/pid")" && while [ -f "$own/pid" ]; do sleep 0.1; done; fi
    # The daemon leaves mounted: the network namespace of its host, and its data on itself.
    for left in "$own"/exec/netns/* "$data"; do umount "$left" 2>/dev/null || true; done
    rm -rf "$own" "$data"
    exit 0
fi

[ "$(id -u)" -eq 0 ] || die "only root can start dockerd; this is $(id -un)"
for program in docker dockerd redis-server redis-cli ldd; do
    command -v "$program" >/dev/null || die "$program is not installed (scripts/install.sh tests)"
done
mkdir -p "$own"
# One test at a time makes it.
exec 9>"$own/lock"
flock 9

socket=
answers() { timeout 10 docker -H "unix://$1" info >/dev/null 2>&1; }
for candidate in /var/run/docker.sock "$own/docker.sock"; do
    if [ -S "$candidate" ] && answers "$candidate"; then socket=$candidate; break; fi
done
if [ -z "$socket" ]; then
    socket=$own/docker.sock
    started() {
        nohup dockerd --data-root "$data" --exec-root "$own/exec" --pidfile "$own/pid" -H "unix://$socket" "$@" \
            >"$own/log" 2>&1 9>&- </dev/null &
        local pid=$!
        for _ in $(seq 100); do
            if answers "$socket"; then return 0; fi
            kill -0 "$pid" 2>/dev/null || return 1
            sleep 0.2
        done
        kill "$pid" 2>/dev/null || true
        return 1
    }
    # A kernel without overlay, then one without its firewall.
    started || started --storage-driver vfs || started --storage-driver vfs --iptables=false --bridge=none ||
        die "dockerd does not run here: $(tail -n 3 "$own/log")"
fi

if ! docker -H "unix://$socket" image inspect "$image" >/dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    for program in redis-server redis-cli sh test sleep; do
        path=$(readlink -f "$(type -P "$program")")
        mkdir -p "$root/usr/bin"
        cp "$path" "$root/usr/bin/$program"
        ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | sort -u | while read -r library; do
            mkdir -p "$root/$(dirname "$library")"
            cp -L "$library" "$root/$library"
        done
    done
    mkdir -p "$root/data" "$root/tmp" "$root/etc" "$root/run"
    chmod 1777 "$root/tmp"
    tar -C "$root" -c . | docker -H "unix://$socket" import --change 'ENV PATH=/usr/bin' - "$image" >/dev/null
fi
echo "$socket"
