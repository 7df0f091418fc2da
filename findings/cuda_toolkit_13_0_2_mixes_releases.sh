#!/usr/bin/env bash
# cuda-toolkit 13.0.2 from the package index, which torch 2.11 and 2.12 require, installs a compiler of mixed releases:
# its extra `nvcc` pins nvidia-cuda-nvcc to 13.0.*, whose own requirements nvidia-nvvm and nvidia-cuda-crt have no version,
# so pip takes the newest of these. nvcc then hands PTX of nvvm's release to the ptxas of 13.0, which refuses it.
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.11, pip 23.2): nvcc 13.0.88, nvvm 13.5.37, crt 13.5.37;
#   ptxas …, line 9; fatal : Unsupported .version 9.5; current version is '9.0'
# With both pinned to nvcc's release the same file compiles. cuda-toolkit 13.2.2 pins all of them.
# Needs g++ and some 600 MB in the temporary folder. Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }
version() { "$folder/venv/bin/python" -c 'import importlib.metadata as m, sys; print(m.version(sys.argv[1]))' "$1"; }

pip install 'cuda-toolkit[nvcc,cccl]==13.0.2'
nvcc_release="$(version nvidia-cuda-nvcc)"
echo "nvcc $nvcc_release, nvvm $(version nvidia-nvvm), crt $(version nvidia-cuda-crt)"
[[ "$(version nvidia-nvvm)" != "$nvcc_release" ]] || { echo 'changed: the releases agree' >&2; exit 1; }

home="$(echo "$folder"/venv/lib/python3*/site-packages/nvidia/cu13)"
echo '__global__ void add(float* x) { x[threadIdx.x] += 1; }' > "$folder/add.cu"
compile() { "$home/bin/nvcc" -c -arch=sm_90 "$folder/add.cu" -o "$folder/add.o"; }
if compile 2> "$folder/messages"; then
    echo 'changed: the mixed compiler works' >&2
    exit 1
fi
sed "s|$folder|…|g" "$folder/messages"
grep -q 'Unsupported .version' "$folder/messages" || { echo 'changed: another message' >&2; exit 1; }

pip install "nvidia-nvvm==$nvcc_release" "nvidia-cuda-crt==$nvcc_release"
compile
echo "with both at $nvcc_release it compiles"
