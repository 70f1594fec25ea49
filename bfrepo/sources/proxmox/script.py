"""What runs on a node: one script, sent with its words each time, or installed there for a key that can do no more.

    vzdump KIND ID MODE DIR       writes the backup of a guest; DIR is for what it needs meanwhile
    qmrestore ID STORAGE FORCE    reads a VMA archive; STORAGE may be "-"
    pct ID OPTION...              reads a tar archive; the options are those of `pct restore`

A backup that is cut off, by kill -9 or a power failure, may leave behind: the guest locked, the snapshot `vzdump` of a
container, and files. Each backup notes in DIR that it is under way, holding a lock that ends with its last process;
whoever finds such a note and gets the lock removes what is left, unless another vzdump runs on the node. The same is
done when vzdump ends badly.
"""

from __future__ import annotations

from typing import Final

from bfrepo.core.errors import InvalidValue

NAME: Final = "backupforge-node"
"""The name of the script, where it is installed and in front of its words where it is sent."""

WORK: Final = "/var/lib/backupforge"
"""The usual DIR."""

BUSY: Final = 75
"""With what the script ends when another backup of the guest is under way."""

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:=,/@+-")

SCRIPT: Final = r"""#!/bin/sh
# What BackupForge runs on a node of Proxmox VE: backups and restores of guests, and nothing else.
set -fu
umask 022
die() { echo "ERROR: $2" >&2; exit "$1"; }
number() { case $1 in '' | *[!0-9]*) die 64 "$1 is no ID of a guest";; esac; }

# As the command of a key it gets what was asked for as one word, of which the end counts.
if [ $# -eq 1 ]; then
    words=${1##* backupforge-node }
    case $words in *[!A-Za-z0-9._:=,/@+\ -]*) die 64 'a request with characters that have no place in one';; esac
    set -- $words
fi

unlock() {  # $1: qm or pct; only if no vzdump is at work on this node: then the lock is of one that is dead
    flock -n /run/vzdump.lock true || return 0
    case $("$1" config "$2" 2>/dev/null) in
    *'lock: backup'* | *'lock: snapshot'*) "$1" unlock "$2" >&2;;
    esac
    [ "$1" = pct ] || return 0
    case $(pct listsnapshot "$2" 2>/dev/null) in
    *'-> vzdump '*) echo "INFO: removing the snapshot vzdump of $2" >&2; pct delsnapshot "$2" vzdump --force 1 >&2;;
    esac
}

backup() {
    kind=$1 id=$2 mode=$3 work=$4
    number "$id"
    case $kind in qemu) tool=qm;; lxc) tool=pct;; *) die 64 "$kind is no kind of guest";; esac
    case $mode in snapshot | suspend | stop) ;; *) die 64 "$mode is no mode";; esac
    case $work in /*) ;; *) die 64 "$work is no directory";; esac
    mkdir -p "$work" || die 73 "cannot make $work"
    exec 9>>"$work/guest-$id.lock" || die 73 "cannot write to $work"
    flock -n 9 || die 75 "another backup of guest $id is under way"
    left=$(find "$work" -maxdepth 1 -type d -name "guest-$id.*")
    if [ -n "$left" ]; then
        echo "INFO: an earlier backup of guest $id was cut off: removing what it left" >&2
        unlock "$tool" "$id"
        find "$work" -maxdepth 1 -type d -name "guest-$id.*" -exec rm -rf {} +
    fi
    dir=$(mktemp -d "$work/guest-$id.XXXXXXXX") && chmod 755 "$dir" || die 73 "cannot write to $work"
    vzdump "$id" --stdout 1 --mode "$mode" --compress 0 --dumpdir "$dir" --lockwait 5
    status=$?
    [ $status -eq 0 ] || unlock "$tool" "$id"
    rm -rf "$dir"
    exit $status
}

case ${1-} in
vzdump)
    [ $# -eq 5 ] || die 64 'vzdump KIND ID MODE DIR'
    shift
    backup "$@";;
qmrestore)
    [ $# -eq 4 ] || die 64 'qmrestore ID STORAGE FORCE'
    number "$2"
    id=$2 storage=$3 force=$4
    set -- "$id"
    [ "$storage" = - ] || set -- "$@" --storage "$storage"
    [ "$force" = 0 ] || set -- "$@" --force 1
    exec qmrestore - "$@";;
pct)
    [ $# -gt 1 ] || die 64 'pct ID OPTION...'
    number "$2"
    id=$2
    shift 2
    exec pct restore "$id" - "$@";;
*)
    die 64 'nothing that this script does';;
esac
"""


def backup_words(kind: str, guest_id: int, mode: str, work: str) -> list[str]:
    """The words for a backup. Raises InvalidValue."""
    return _checked(["vzdump", kind, str(guest_id), mode, work])


def machine_words(guest_id: int, storage: str | None, *, force: bool) -> list[str]:
    """The words for the restore of a machine. Raises InvalidValue."""
    return _checked(["qmrestore", str(guest_id), storage or "-", str(int(force))])


def container_words(guest_id: int, options: list[str]) -> list[str]:
    """The words for the restore of a container. Raises InvalidValue."""
    return _checked(["pct", str(guest_id), *options])


def _checked(words: list[str]) -> list[str]:
    """Words that mean the same to the script however it gets them."""
    for word in words:
        if not word or not _PLAIN.issuperset(word):
            raise InvalidValue(f"{word!r} cannot be sent to a node", hint="letters, digits and ._:=,/@+- can")
    return words
