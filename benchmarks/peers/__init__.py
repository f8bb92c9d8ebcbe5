"""Peer libraries on our data: each runs in an environment of its own and knows nothing of ours."""
