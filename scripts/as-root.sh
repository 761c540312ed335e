#!/usr/bin/env bash
# Runs a command where network namespaces can be made: as root, or as root of a user namespace. Fails with what is missing.
set -euo pipefail

if [ "$(id -u)" -eq 0 ]; then exec "$@"; fi

missing=()
command -v unshare >/dev/null || missing+=("unshare (package util-linux)")
command -v newuidmap >/dev/null || missing+=("newuidmap (package uidmap or shadow-utils)")
grep -q "^$(id -un):" /etc/subuid 2>/dev/null || missing+=("a range for $(id -un) in /etc/subuid and /etc/subgid")
flags=(--user --map-root-user --map-auto --net --mount --pid --fork --kill-child --mount-proc)
if [ ${#missing[@]} -eq 0 ] && ! unshare "${flags[@]}" true 2>/dev/null; then
    missing+=("permission to make user namespaces (sysctl kernel.unprivileged_userns_clone, or AppArmor's restriction)")
fi
if [ ${#missing[@]} -gt 0 ]; then
    printf 'error: the tests make network namespaces. Run them as root, or give this user: %s\n' "$(printf '%s; ' "${missing[@]}")" >&2
    exit 1
fi
# /run/netns must be this namespace's own.
exec unshare "${flags[@]}" bash -c 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"' as-root "$@"
