"""A whole gradient that is made of pieces: micro-batches that are accumulated, shards of data-parallel workers."""

from manual_bp.oracle.accumulation.accumulated import accumulated

__all__ = ["accumulated"]
