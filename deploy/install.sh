#!/bin/sh
# Installs a flawscope station from the bundle that this file lies in, or upgrades it, without a network:
#
#     ./install.sh
#
# Every version has a folder of its own below /opt/flawscope, and `current` names the one that runs. Before an
# upgrade, while the station runs, its tables are copied into /var/backups/flawscope. Going back to the version
# before:
#
#     /opt/flawscope/current/install.sh back
set -eu

prefix=/opt/flawscope
settings=/etc/flawscope/station.yaml
backups=/var/backups/flawscope
here=$(cd "$(dirname "$0")" && pwd)

fail() { echo "install.sh: $*" >&2; exit 1; }
service() { if [ -d /run/systemd/system ]; then systemctl "$1" flawscope-station; fi; }
# as the station's user, who owns the store
as_user() { setpriv --reuid flawscope --regid flawscope --init-groups env HOME=/var/lib/flawscope "$@"; }

switch() { # to a version, at once
    ln -sfn "$1" "$prefix/current.new"
    mv -T "$prefix/current.new" "$prefix/current"
}

start() {
    if [ -d /run/systemd/system ]; then
        if ! systemctl start flawscope-station; then
            fail "the station does not start: \`journalctl -u flawscope-station\` says why, \`$prefix/current/install.sh back\` goes back"
        fi
    else
        echo "there is no systemd: start it with $prefix/current/bin/flawscope serve $settings"
    fi
}

install_new() {
    version=$(cat "$here/VERSION")
    old=$(readlink "$prefix/current" 2>/dev/null || true)
    [ "$version" != "$old" ] || fail "version $version is installed already"
    (cd "$here" && sha256sum --check --quiet SHA256SUMS) || fail "the bundle is damaged: copy it again"
    wheel=$(echo "$here"/wheels/flawscope-*.whl)
    tag=$(basename "$here"); tag=${tag##*-py}
    python="python$(echo "$tag" | sed 's/./&./')"
    command -v "$python" >/dev/null || python=python3

    echo "installing $version into $prefix/$version"
    rm -rf "${prefix:?}/$version"
    mkdir -p "$prefix"
    "$python" -m venv "$prefix/$version" || fail "python3 with venv is missing: install it from the distribution"
    "$prefix/$version/bin/pip" install --quiet --disable-pip-version-check --no-index \
        --find-links "$here/wheels" "$wheel$(sed 's/..*/[&]/' "$here/EXTRAS")" flawscope-station "flawscope-line[plc]" ||
        { rm -rf "${prefix:?}/$version"; fail "the wheels do not fit this machine, or the disk is full: nothing was changed"; }
    cp "$here/install.sh" "$prefix/$version/"

    id flawscope >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir /var/lib/flawscope --shell /usr/sbin/nologin flawscope
    install -d -o flawscope -g flawscope -m 700 /var/lib/flawscope "$backups"
    install -d /etc/flawscope
    # without products it opens the page where the first one is made
    [ -f "$settings" ] || printf 'store: /var/lib/flawscope\n' > "$settings"
    if [ -n "$old" ]; then
        # the station runs on meanwhile: an upgrade changes tables, and neither pictures nor models
        as_user "$prefix/$version/bin/flawscope" station check "$settings" ||
            echo "these faults keep no station from starting that ran with them before"
        backup=
        if ! grep -q '^database:' "$settings"; then
            backup="$backups/before-$version-$(date +%Y%m%dT%H%M%S).tar"
            as_user "$prefix/$version/bin/flawscope" station backup "$backup" --tables --settings "$settings" ||
                { rm -rf "${prefix:?}/$version"; fail "the tables could not be copied: version $old goes on"; }
        fi
        printf '%s\n%s\n' "$old" "$backup" > "$prefix/$version/BEFORE"
        service stop
    fi
    if [ -d /run/systemd/system ]; then
        install -m 644 "$here/flawscope-station.service" /etc/systemd/system/
        systemctl daemon-reload
        systemctl enable --quiet flawscope-station
    fi
    switch "$version"
    start
    echo "version $version is installed"
}

go_back() {
    version=$(readlink "$prefix/current") || fail "nothing is installed in $prefix"
    [ -f "$prefix/$version/BEFORE" ] || fail "version $version is the first one here"
    old=$(sed -n 1p "$prefix/$version/BEFORE")
    backup=$(sed -n 2p "$prefix/$version/BEFORE")
    [ -x "$prefix/$old/bin/flawscope" ] || fail "version $old is no longer in $prefix"
    service stop
    # an older version refuses tables that a newer one has changed; else the store stays as it is
    if ! as_user "$prefix/$old/bin/flawscope" station user list --settings "$settings" >/dev/null 2>&1; then
        ! grep -q '^database:' "$settings" ||
            fail "version $old cannot read the data base: restore with pg_restore what pg_dump made before the upgrade, then call this again"
        as_user "$prefix/$version/bin/flawscope" station restore "$backup" --tables --settings "$settings" ||
            fail "the tables of before cannot be restored from $backup"
        echo "the tables are those of before the upgrade: what was recorded since is in those kept beside them"
    fi
    switch "$old"
    start
    echo "version $old runs again"
}

[ "$(id -u)" = 0 ] || fail "run it as root"
case "${1:-}" in
    "") install_new ;;
    back) go_back ;;
    *) fail "unknown: $1; without a word it installs, \`back\` goes back" ;;
esac
