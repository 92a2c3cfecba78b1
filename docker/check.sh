#!/usr/bin/env bash
# Runs what each image's Dockerfile runs, in a fresh environment instead of an image: copies
# what it copies, installs what it installs, and starts what it starts, as another user where
# this is run by root. For machines that can build no image.
#
#   docker/check.sh [coordinator|site|simulation ...]
#
# TORCH_SOURCE in the environment is what README.md says of it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$(command -v python3.11 || command -v python3)}"
images=("$@")
[ ${#images[@]} -gt 0 ] || images=(coordinator site simulation)

for image in "${images[@]}"; do
  file="$root/docker/$image.Dockerfile"
  work="$(mktemp -d)"
  chmod 755 "$work"
  trap 'rm -rf "$work"' EXIT
  while read -r _ sources; do
    read -ra words <<<"$sources"
    for source in "${words[@]::${#words[@]}-1}"; do
      mkdir -p "$work/context"
      (cd "$root" && git ls-files -z -- "$source" | tar --null -T - -cf -) | tar -xf - -C "$work/context"
    done
  done < <(grep '^COPY ' "$file")
  echo "$image: installing"
  "$python" -m venv "$work/venv"
  # The line of the Dockerfile itself, with pip taken from the fresh environment.
  install="$(sed -n 's/^RUN \(pip install .*\)$/\1/p' "$file")"
  (cd "$work/context" && PATH="$work/venv/bin:$PATH" PIP_QUIET=1 TORCH_SOURCE="${TORCH_SOURCE:-}" bash -euc "$install")
  entry="$(sed -n 's/^ENTRYPOINT \["\(.*\)"\]$/\1/p' "$file")"
  run=()
  if [ "$(id -u)" = 0 ]; then run=(setpriv --reuid 10001 --regid 10001 --clear-groups); fi
  (cd / && HOME=/tmp "${run[@]}" "$work/venv/bin/$entry" --help >"$work/help")
  grep -q Usage "$work/help"
  echo "$image: $entry starts"
  rm -rf "$work"
done
