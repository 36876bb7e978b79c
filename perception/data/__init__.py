"""Frames: their manifest, store, shards, taxonomies, readers, decoding and loading."""
