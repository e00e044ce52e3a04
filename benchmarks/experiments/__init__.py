"""What the course notes claim about training, measured on the handwritten digits with hand-derived gradients only.

    python -m benchmarks.experiments.vanishing
    python -m benchmarks.experiments.vanishing_through_time
    python -m benchmarks.experiments.regularization
    python -m benchmarks.experiments.batch_size

Each writes benchmarks/results/<name>.json, benchmarks/figures/<name>.svg and its table in benchmarks/README.md.
"""
