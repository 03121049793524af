#!/usr/bin/env bash
# Tests the images against a real Docker engine, by the commands of docs/docker.md, which are taken from there.
#
#   docker/test.sh [quick|faults [FAULT...]|all]
#
#   quick    builds the builder and the images, then walks through docs/docker.md from its first command to its last:
#            compose, the smoke session, one service again, down, docker run, stop and start (about 6 minutes)
#   faults   with the store up by compose and buyers at work: swap, move, kill, pause and cut, or those named, each
#            container in turn (about 7 minutes, and the build)
#
# Needs root, Docker, docker-compose, debootstrap, curl, python3 and Rust. Does not run where containers, volumes or a
# network of the store's names exist, and removes at the end what it made: images of before are put back.
set -euo pipefail
cd "$(dirname "$0")"
. test/lib.sh
. test/walk.sh
. test/faults.sh

what=${1:-quick}
case $what in quick | faults | all) ;; *) fail 64 "\"$what\" is none of quick, faults, all" ;; esac
need_tools
refuse_to_disturb
trap clean_up EXIT
remember_images

if [ "$what" != faults ]; then
    walk_through_the_docs
fi
if [ "$what" != quick ]; then
    faults_under_load "${@:2}"
fi
say "all as it should be"
