#!/usr/bin/env bash
# Installs from the distribution what is missing, after saying what that is.
# Usage: install.sh postgres|mariadb|mysql|redis|tests|bench … (of mysql only what a build needs: see mysql-for-tests.sh)
set -euo pipefail

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# One of PostgreSQL's server programs, wherever distributions put them.
have_postgres() {
    local dir
    for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql*/ ${PATH//:/ }; do
        [ -x "$dir/$1" ] && return 0
    done
    return 1
}

if have apt-get; then manager=apt
elif have dnf; then manager=dnf
elif have apk; then manager=apk
elif have pacman; then manager=pacman
else manager=none
fi

# Names of packages: one column for each way to install them.
package() {
    local apt dnf apk pacman
    case "$1" in
        postgres)  apt=postgresql dnf="postgresql-server postgresql-contrib" apk="postgresql postgresql-contrib postgresql-client" pacman=postgresql ;;
        ip)        apt=iproute2   dnf=iproute      apk=iproute2   pacman=iproute2 ;;
        iptables)  apt=iptables   dnf=iptables-nft apk=iptables   pacman=iptables ;;
        util)      apt=util-linux dnf=util-linux   apk=util-linux pacman=util-linux ;;
        ext4)      apt=e2fsprogs  dnf=e2fsprogs    apk=e2fsprogs  pacman=e2fsprogs ;;
        redis)     apt=redis-server dnf=redis      apk=redis      pacman=redis ;;
        mariadb)   apt="mariadb-server mariadb-client mariadb-backup" dnf="mariadb-server mariadb mariadb-backup" apk="mariadb mariadb-client mariadb-backup" pacman=mariadb ;;
        fuse)      apt=fuse3      dnf=fuse3        apk=fuse3      pacman=fuse3 ;;
        sqlite)    apt=sqlite3    dnf=sqlite       apk=sqlite     pacman=sqlite ;;
        python)    apt=python3    dnf=python3      apk=python3    pacman=python ;;
        docker)    apt=docker.io  dnf=moby-engine  apk=docker     pacman=docker ;;
        # As Debian packages it: elsewhere programs and folders have other names.
        firebird)  apt="firebird3.0-server firebird3.0-utils" dnf= apk= pacman= ;;
        socat)     apt=socat      dnf=socat        apk=socat      pacman=socat ;;
        haproxy)   apt=haproxy    dnf=haproxy      apk=haproxy    pacman=haproxy ;;
        cc)        apt=gcc        dnf=gcc          apk="gcc musl-dev" pacman=gcc ;;
        *) die "no package is known for $1" ;;
    esac
    case "$manager" in
        apt) echo "$apt" ;; dnf) echo "$dnf" ;; apk) echo "$apk" ;; pacman) echo "$pacman" ;; none) echo "$1" ;;
    esac
}

missing=()
postgres=
need() { missing+=("$(package "$1")"); }
for what in "$@"; do
    have cc || need cc
    case "$what" in mariadb|tests|bench)
        for program in mariadbd mariadb mariadb-install-db mariadb-binlog mariadb-backup mbstream; do
            have "$program" || { need mariadb; break; }
        done ;;
    esac
    if [ "$what" != redis ] && [ "$what" != mariadb ] && [ "$what" != mysql ]; then
        postgres=1
        for program in postgres initdb pg_basebackup pg_rewind psql; do
            have_postgres "$program" || { need postgres; break; }
        done
    fi
    case "$what" in
        postgres|mariadb|mysql) ;;
        redis|tests|bench)
            have redis-server || need redis
            # Only root mounts a volume without it.
            [ "$(id -u)" -eq 0 ] || have fusermount3 || need fuse
            ;;&
        redis) ;;
        tests|bench)
            have ip || need ip
            have iptables || need iptables
            if ! have nsenter || ! have setpriv || ! have unshare || ! have fsfreeze; then need util; fi
            have mkfs.ext4 || need ext4
            if [ "$what" = tests ]; then
                have sqlite3 || need sqlite
                have python3 || need python
                if [ "$manager" = apt ]; then
                    if ! have firebird || ! have isql-fb || ! have gfix; then need firebird; fi
                fi
            fi
            # The tests start a daemon of their own when none runs, which only root can.
            if [ "$what" = tests ] && [ "$(id -u)" -eq 0 ]; then
                if ! have dockerd || ! have docker; then need docker; fi
                have socat || need socat
            fi
            if [ "$what" = bench ]; then have haproxy || need haproxy; fi
            ;;
        *) die "install.sh knows postgres, mariadb, mysql, redis, tests and bench, not $what" ;;
    esac
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
mapfile -t packages < <(printf '%s\n' "${missing[@]}" | tr ' ' '\n' | sort -u)

have cargo || die "Rust is missing: see https://rustup.rs"
[ "$manager" != none ] || die "install these yourself, no package manager is known here: ${packages[*]}"
if [ "$(id -u)" -eq 0 ]; then as_root=()
elif have sudo; then as_root=(sudo)
else die "not root, and no sudo: install these yourself: ${packages[*]}"
fi
say "This installs from the distribution, with $manager: ${packages[*]}"

apt() {
    # Another apt may be running on a machine that has just been started. apt waits for dpkg's lock, not for its own.
    local log tries
    log=$(mktemp)
    for tries in $(seq 60); do
        if "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" 2>&1 | tee "$log"; then
            rm -f "$log"
            return 0
        fi
        grep -q 'Could not get lock\|Unable to acquire\|Unable to lock' "$log" || break
        say "waiting for another apt to finish ($tries)"
        sleep 5
    done
    rm -f "$log"
    die "apt-get $* failed"
}

case "$manager" in
    apt)
        apt update
        # Not every release has this Firebird: its tests say so then.
        if ! apt-cache show firebird3.0-server >/dev/null 2>&1; then
            for i in "${!packages[@]}"; do
                case "${packages[i]}" in firebird*) unset "packages[i]" ;; esac
            done
        fi
        config=/etc/postgresql-common/createcluster.conf
        changed=
        if printf '%s\n' "${packages[@]}" | grep -qx postgresql; then
            # Debian would make and start a database of its own on port 5432, which nobody asked for.
            apt install --no-install-recommends postgresql-common
            if [ -f "$config" ] && ! grep -q '^create_main_cluster *= *false' "$config"; then
                "${as_root[@]}" cp -p "$config" "$config.before-trine"
                echo 'create_main_cluster = false' | "${as_root[@]}" tee -a "$config" >/dev/null
                changed=1
            fi
        fi
        # Nor is a Redis of its own started on port 6379, a Firebird on 3050, or a Docker, now or when the machine starts.
        quiet=()
        if have systemctl; then
            for service in redis-server:redis-server docker.io:docker.service docker.io:docker.socket \
                firebird3.0-server:firebird3.0.service; do
                if printf '%s\n' "${packages[@]}" | grep -qxF "${service%%:*}"; then quiet+=("${service#*:}"); fi
            done
        fi
        for service in "${quiet[@]}"; do "${as_root[@]}" systemctl mask "$service" >/dev/null 2>&1 || true; done
        apt install --no-install-recommends "${packages[@]}"
        for service in "${quiet[@]}"; do
            "${as_root[@]}" systemctl unmask "$service" >/dev/null 2>&1 || true
            "${as_root[@]}" systemctl disable "$service" >/dev/null 2>&1 || true
        done
        if [ -n "$changed" ]; then "${as_root[@]}" mv "$config.before-trine" "$config"; fi
        ;;
    dnf) "${as_root[@]}" dnf -y install "${packages[@]}" ;;
    apk) "${as_root[@]}" apk add "${packages[@]}" ;;
    pacman) "${as_root[@]}" pacman -Sy --noconfirm --needed "${packages[@]}" ;;
esac
[ -z "$postgres" ] || have_postgres postgres || die "PostgreSQL was installed, and its programs are not where they are looked for; set engine.bin_dir"
