#!/bin/sh
# Packs the built host as Spin's plugins trigger-kafka and trigger-cron: a .tar.gz and a manifest each,
# for `spin plugins install --file`. Usage: plugin.sh FOLDER (absolute, or below the repository)
set -eu
cd "$(dirname "$0")/.."
mkdir -p "$1"
out=$(cd "$1" && pwd)
host=target/release/exagg
[ -x "$host" ] || { echo "build the host first: make host"; exit 1; }
version=$("$host" --version | cut -d ' ' -f 2)
case $(uname -s) in Darwin) os=macos ;; *) os=linux ;; esac
case $(uname -m) in x86_64) arch=amd64 ;; arm64) arch=aarch64 ;; *) arch=$(uname -m) ;; esac

digest() {
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

pack=$(mktemp -d)
trap 'rm -rf "$pack"' EXIT
for trigger in kafka cron; do
    name=trigger-$trigger
    cp "$host" "$pack/$name"
    # Names for a debugger: most of the file.
    ! command -v strip >/dev/null || strip "$pack/$name"
    tar -C "$pack" -czf "$out/$name.tar.gz" "$name"
    rm "$pack/$name"
    cat >"$out/$name.json" <<JSON
{
  "name": "$name",
  "description": "Runs the $trigger triggers of Spin apps: batches, applied-once functions, producers",
  "version": "$version",
  "spinCompatibility": ">=3.0",
  "license": "Apache-2.0",
  "packages": [
    {
      "os": "$os",
      "arch": "$arch",
      "url": "file://$out/$name.tar.gz",
      "sha256": "$(digest "$out/$name.tar.gz")"
    }
  ]
}
JSON
    echo "spin plugins install --file $out/$name.json"
done
