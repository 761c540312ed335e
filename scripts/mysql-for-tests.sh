#!/usr/bin/env bash
# A MySQL for the tests: takes the one of Debian's unstable suite into a folder of its own, made to run with the libraries that
# it was built for, and prints its version and that folder, whose bin/ is for engine.bin_dir. Nothing of this machine is changed:
# not its packages, and not what apt knows.
# Usage: mysql-for-tests.sh [folder, by default /var/cache/trine-mysql]
#
# Done before, it only says so; a new folder, or this one removed, takes what the suite has by then. Exit code 3: the suite can't
# be reached, or what it has can't be put together. It moves, so a test without it must be passed over, and say so.
set -euo pipefail
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
unavailable() { printf 'unavailable: MySQL can not be had from Debian sid: %s\n' "$*" >&2; exit 3; }

dir=$(realpath -m "${1:-/var/cache/trine-mysql}")
programs=(mysqld mysql mysqladmin mysqldump mysqlbinlog)
plugins=(semisync_source.so semisync_replica.so mysql_clone.so)
keys=/usr/share/keyrings/debian-archive-keyring.gpg

present() {
    [ -f "$dir/version" ] || return 1
    printf '%s\n%s\n' "$(cat "$dir/version")" "$dir"
}
if present; then exit 0; fi
for program in apt-get dpkg-deb flock; do
    command -v "$program" >/dev/null || unavailable "$program is not here: this is no Debian"
done
[ -r "$keys" ] || unavailable "Debian's keys are not here ($keys, package debian-archive-keyring)"
mkdir -p "$(dirname "$dir")" || die "can't make $(dirname "$dir")"

# One makes it, the others wait for that one.
exec 9>"$dir.lock"
flock 9
if present; then exit 0; fi
rm -rf "$dir" "$dir".new.*
new=$(mktemp -d "$dir.new.XXXXXX")
trap 'rm -rf "$new"' EXIT
# Root of this machine is not what apt gives its downloads to.
chmod 755 "$new"

apt=$new/apt
mkdir -p "$apt"/{lists,archives}/partial "$apt/none"
: >"$apt/status"
printf 'deb [signed-by=%s] http://deb.debian.org/debian sid main\n' "$keys" >"$apt/sources"
# Signatures are checked. Not for how long they were meant to be current: mirrors stand still at times, and the data is a test's.
cat >"$apt/conf" <<END
Dir::Etc::Parts "$apt/none";
Dir::Etc::SourceList "$apt/sources";
Dir::Etc::SourceParts "$apt/none";
Dir::Etc::Preferences "$apt/none/preferences";
Dir::Etc::PreferencesParts "$apt/none";
Dir::State "$apt";
Dir::State::Lists "$apt/lists";
Dir::State::Status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::Archives "$apt/archives";
Dir::Log "$apt";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Debug::NoLocking "true";
END
export APT_CONFIG=$apt/conf LC_ALL=C DEBIAN_FRONTEND=noninteractive
run() { "$@" >"$new/log" 2>&1; }
why() { grep -aE '^(E|W|dpkg-deb: error):' "$new/log" | sort | head -n 1 || true; }

run timeout 300 apt-get -q update -o APT::Update::Error-Mode=any || unavailable "$(why)"
run apt-get -q -s install mysql-server-core mysql-client-core patchelf || unavailable "its packages do not resolve: $(why)"
# Perl is for scripts that no test runs.
mapfile -t packages < <(awk '$1 == "Inst" && $2 !~ /^(perl|libperl|libgdbm|libdb5)/ { print $2 }' "$new/log")
(cd "$apt/archives" && run timeout 900 apt-get -q download "${packages[@]}") || unavailable "$(why)"
for package in "$apt"/archives/*.deb; do
    run dpkg-deb -x "$package" "$new" || unavailable "$(basename "$package") can't be unpacked: $(why)"
done

# The libraries are found by the programs themselves, and through the loader that came with them.
loader=$(cd "$new" && ls usr/lib*/ld-linux-*.so.* usr/lib/*/ld-linux-*.so.* 2>/dev/null | head -n 1)
libc=$(cd "$new" && ls usr/lib/*/libc.so.6 2>/dev/null | head -n 1)
[ -n "$loader" ] && [ -n "$libc" ] || unavailable "its libc6 has another layout"
libraries=$(dirname "$libc")
with_loader() { "$new/$loader" --library-path "$new/$libraries" "$@"; }
# The server looks for what belongs to it beside the folder that it is started from.
mkdir -p "$new/bin"
ln -s usr/lib usr/share "$new"
for program in "${programs[@]}"; do
    found=usr/sbin/$program
    [ -f "$new/$found" ] || found=usr/bin/$program
    [ -f "$new/$found" ] || unavailable "its packages have no $program"
    run with_loader "$new/usr/bin/patchelf" --set-interpreter "$dir/$loader" --force-rpath \
        --set-rpath "$dir/$libraries" --output "$new/bin/$program" "$new/$found" || unavailable "patchelf: $(tail -n 1 "$new/log")"
done
for plugin in "${plugins[@]}"; do
    [ -f "$new/usr/lib/mysql/plugin/$plugin" ] || unavailable "its packages have no $plugin"
done
version=$(with_loader "$new/bin/mysqld" --no-defaults --version 2>"$new/log") || unavailable "it does not run: $(tail -n 1 "$new/log")"
version=${version##*Ver }
printf '%s\n' "${version%% *}" >"$new/version"
rm -rf "$apt" "$new/log" "$new"/{etc,var} "$new"/usr/{bin,sbin,share/{doc,man,locale}}
mv -T "$new" "$dir"
present
