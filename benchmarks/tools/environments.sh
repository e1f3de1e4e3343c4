#!/usr/bin/env bash
# environments.sh FOLDER: an environment for each tool, which sees the packages of the environment of `python` (torch,
# transformers, numpy) behind its own. Requirements that nothing here runs are left out: CUDA, vision, vocabularies.
set -euo pipefail
folder=$1
shared=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
base=$(python -c 'import sys; print(sys._base_executable)')

make() { # NAME REQUIREMENT...
  "$base" -m venv "$folder/$1"
  own=$("$folder/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$shared" > "$own/shared.pth"
  "$folder/$1/bin/python" -m pip install --quiet --no-deps "${@:2}"
}

older=("huggingface_hub<1" "tokenizers<0.23")
make lxt lxt==2.1 transformers==4.52.4 "huggingface_hub<1" "tokenizers<0.22" tabulate zennit
make lxt_new lxt==2.1 tabulate zennit
make gim gim-explain==0.1.4
make transformers_interpret transformers-interpret==0.10.0
make inseq inseq==0.7.1 "typeguard<=2.13.3" treescope
make interpreto interpreto==0.5.2 "nnsight<0.8,>=0.7" "jaxtyping<=0.2.36" nltk einops scikit-learn joblib \
  threadpoolctl narwhals python-engineio python-socketio simple-websocket bidict wsproto h11 astor httpx httpcore zstandard
make ferret ferret-xai==0.4.2 transformers==4.57.6 "${older[@]}" captum==0.7.0 numpy==1.26.4 "pandas<3" "scipy<1.17" \
  "pyarrow<20" "datasets<3" pyarrow-hotfix "shap<0.45" slicer==0.0.7 numba==0.61.2 "llvmlite<0.45" lime pytz pytreebank \
  sentencepiece opencv-python-headless scikit-learn scikit-image joblib threadpoolctl narwhals imageio lazy_loader tifffile \
  aiohttp multidict yarl frozenlist aiosignal aiohappyeyeballs propcache
# For benchmarks/peers alone.
make shap shap==0.51.0 slicer==0.0.8 numba llvmlite scikit-learn joblib threadpoolctl cloudpickle narwhals
