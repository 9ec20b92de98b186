#!/bin/sh
# Builds the host's image without a container engine: an OCI layout with one layer, the program and
# just the libraries it needs, no shell. Usage: image.sh FOLDER   Push it with
#   skopeo copy oci:FOLDER:exagg docker://registry/exagg:tag
# As root the program gets the file capability by which it may listen on port 80 without being root.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "$1"
out=$(cd "$1" && pwd)
host=target/release/exagg
uid=10001
[ -x "$host" ] || { echo "build the host first: make host"; exit 1; }
version=$("$host" --version | cut -d ' ' -f 2)
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/tmp" "$root/state" "$root/proc" "$root/dev" "$root/sys"
cp "$host" "$root/usr/local/bin/exagg"
# Names for a debugger: most of the file.
! command -v strip >/dev/null || strip "$root/usr/local/bin/exagg"
# The loader and the libraries, at the paths where the program looks for them.
ldd "$host" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
# What the C library loads by itself to look names up.
for library in /lib/*-linux-gnu/libnss_dns.so.2 /lib/*-linux-gnu/libnss_files.so.2 /lib/*-linux-gnu/libresolv.so.2; do
    [ ! -e "$library" ] || { mkdir -p "$root$(dirname "$library")"; cp -L "$library" "$root$library"; }
done
authorities=/etc/ssl/certs/ca-certificates.crt
[ ! -e "$authorities" ] || cp -L "$authorities" "$root$authorities"
printf 'root:x:0:0::/:/nologin\nexagg:x:%s:%s::/state:/nologin\n' "$uid" "$uid" >"$root/etc/passwd"
printf 'root:x:0:\nexagg:x:%s:\n' "$uid" >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"
if [ "$(id -u)" = 0 ] && PATH=$PATH:/usr/sbin:/sbin command -v setcap >/dev/null; then
    PATH=$PATH:/usr/sbin:/sbin setcap cap_net_bind_service=+ep "$root/usr/local/bin/exagg"
else
    echo "without root and setcap the image may not listen on port 80 unless the cluster lets it" >&2
fi

blobs=$out/blobs/sha256
rm -rf "$out/blobs"
mkdir -p "$blobs"
pack() { tar --numeric-owner --sort=name --mtime=@0 --xattrs --xattrs-include=security.capability -C "$root" "$@"; }
pack --create --owner=0 --group=0 --file="$out/layer.tar" --exclude=./state .
pack --append --owner=$uid --group=$uid --file="$out/layer.tar" ./state
diff_id=$(sha256sum "$out/layer.tar" | cut -d ' ' -f 1)
gzip -n "$out/layer.tar"

# Moves a file to its place among the blobs and prints its descriptor.
blob() {
    digest=$(sha256sum "$2" | cut -d ' ' -f 1)
    size=$(wc -c <"$2" | tr -d ' ')
    mv "$2" "$blobs/$digest"
    printf '{"mediaType":"%s","digest":"sha256:%s","size":%s%s}' "$1" "$digest" "$size" "${3:-}"
}

layer=$(blob application/vnd.oci.image.layer.v1.tar+gzip "$out/layer.tar.gz")
cat >"$out/config.json" <<JSON
{"architecture":"$arch","os":"linux","config":{"User":"$uid:$uid","WorkingDir":"/state",
"Entrypoint":["/usr/local/bin/exagg"],"Cmd":["up","--help"],
"Env":["PATH=/usr/local/bin","HOME=/state","DOCKER_CONFIG=/docker","SSL_CERT_FILE=$authorities"],
"Labels":{"org.opencontainers.image.title":"exagg","org.opencontainers.image.version":"$version",
"org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]}}
JSON
config=$(blob application/vnd.oci.image.config.v1+json "$out/config.json")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
    "$config" "$layer" >"$out/manifest.json"
manifest=$(blob application/vnd.oci.image.manifest.v1+json "$out/manifest.json" \
    ',"annotations":{"org.opencontainers.image.ref.name":"exagg"}')
printf '{"schemaVersion":2,"manifests":[%s]}' "$manifest" >"$out/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$out/oci-layout"
echo "$out: exagg $version, $(du -sh "$blobs" | cut -f 1) compressed"
