#!/usr/bin/env bash
# A Docker for the tests: prints the socket of the one that runs, or of one that it starts, and makes images of this
# machine's Redis, Python and, when it has one, Firebird there (no registry is asked). Fails, with the reason, where none
# can run.
#
# The daemon that it starts is the tests' own, and stays for the next ones; `docker-for-tests.sh down` ends it.
# TRINE_TEST_DOCKER is the socket of another to try first: /run/podman/podman.sock.
set -euo pipefail
die() { printf '%s\n' "$*" >&2; exit 1; }

own=/run/trine-docker
data=/var/lib/docker-trine

if [ "${1:-}" = down ]; then
    if [ -f "$own/pid" ]; then kill "$(cat "$own/pid")" && while [ -f "$own/pid" ]; do sleep 0.1; done; fi
    # The daemon leaves mounted: the network namespace of its host, and its data on itself.
    for left in "$own"/exec/netns/* "$data"; do umount "$left" 2>/dev/null || true; done
    rm -rf "$own" "$data"
    exit 0
fi

[ "$(id -u)" -eq 0 ] || die "only root can start dockerd; this is $(id -un)"
for program in docker dockerd redis-server redis-cli /usr/bin/python3 ldd; do
    command -v "$program" >/dev/null || die "$program is not installed (scripts/install.sh tests)"
done
mkdir -p "$own"
# One test at a time makes it.
exec 9>"$own/lock"
flock 9

socket=
answers() { timeout 10 docker -H "unix://$1" info >/dev/null 2>&1; }
for candidate in ${TRINE_TEST_DOCKER:+"$TRINE_TEST_DOCKER"} /var/run/docker.sock "$own/docker.sock"; do
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

# Copies a file and the libraries that it needs into $root, under their own names or as $2.
put() {
    mkdir -p "$root/$(dirname "${2:-$1}")"
    cp -L "$1" "$root/${2:-$1}"
    { ldd "$1" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | sort -u | while read -r library; do
        mkdir -p "$root/$(dirname "$library")"
        cp -L "$library" "$root/$library"
    done
}

# Makes an image of programs, unless it is there; python's modules come with python. A path is a file, or a folder with all
# that is in it, that the programs look for.
image() {
    local name=$1 program
    shift
    if docker -H "unix://$socket" image inspect "$name" >/dev/null 2>&1; then return; fi
    root=$(mktemp -d)
    # The container's `/`, which the database's user has to pass.
    chmod 755 "$root"
    trap 'rm -rf "$root"' EXIT
    for program in "$@"; do
        if [[ $program == /* ]]; then
            find "$program" \( -type f -o -type l \) -exec test -f {} \; -print | while read -r file; do put "$file"; done
            continue
        fi
        put "$(readlink -f "$(PATH=/usr/bin:$PATH:/usr/sbin type -P "$program")")" "/usr/bin/$program"
        if [ "$program" = python3 ]; then
            local modules
            modules=$(/usr/bin/python3 -c 'import os; print(os.path.dirname(os.__file__))')
            mkdir -p "$root/$modules"
            tar -C "$modules" --exclude __pycache__ --exclude test --exclude dist-packages --exclude 'config-*' -c . |
                tar -C "$root/$modules" -x
            for module in "$modules"/lib-dynload/*.so; do put "$module"; done
        fi
    done
    mkdir -p "$root/data" "$root/tmp" "$root/etc" "$root/run"
    chmod 1777 "$root/tmp"
    tar -C "$root" -c . | docker -H "unix://$socket" import --change 'ENV PATH=/usr/bin' - "$name" >/dev/null
    rm -rf "$root"
}

image trine-tests/redis:1 redis-server redis-cli sh test sleep
image trine-tests/python:1 python3
if command -v isql-fb >/dev/null; then
    # What it loads by name: its plug-ins, and the letters of the world. socat, as it listens on TCP only.
    image trine-tests/firebird:1 firebird isql-fb sh test rm socat /usr/lib/*/firebird /usr/share/firebird \
        /usr/lib/*/libicu{uc,i18n,data}.so.[0-9][0-9]
fi
echo "$socket"
