"""Scripts that turn models of installed packages into safetensors and tokenizer.json, each run in a process of its own.

A script is called with the package's folder and an empty folder to write to. It prints one line for each step.
`saliency-bench models prepare NAME` runs them; a wheel carries them as `saliency_bench/conversion`.
"""
