#!/bin/sh
# Stands in for Python in the tests of `pip`: does what the file `behaviour` beside the cache's `models` says.
fake="$PWD/../../../fake"
behaviour="$(cat "$fake/behaviour")"
case "$2" in
pip)
    echo "$*" >"$fake/asked"
    while [ "$1" != --dest ]; do shift; done
    case "$behaviour" in
    fail) echo "WARNING: retrying" >&2; echo "ERROR: no such package" >&2; echo "a note" >&2; exit 1 ;;
    hang) exec sleep 30 ;;
    esac
    mkdir -p "$2"
    if [ "$behaviour" != no-wheel ]; then echo wheel >"$2/tiny-1.0-py3-none-any.whl"; fi
    ;;
zipfile)
    if [ "$behaviour" = no-zip ]; then echo "zipfile.BadZipFile: File is not a zip file" >&2; exit 1; fi
    mkdir -p "$5/tiny"
    if [ "$behaviour" != no-member ]; then cp "$fake/member" "$5/tiny/m.gguf"; fi
    ;;
esac
