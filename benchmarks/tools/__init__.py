"""Published explanation tools under the laws that their results should keep.

`python -m benchmarks.tools LAW TOOL` measures a law here, where the tool is installed, and
`python -m benchmarks.tools OUT TOOL=PYTHON ...` writes the table, each tool in its own environment.
Nothing here imports saliency_bench except the adapter of it and what writes the table: a tool's environment
may have another version of transformers.
"""
