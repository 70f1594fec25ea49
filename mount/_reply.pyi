"""Types of the kernel in _reply.c."""

def stand_for(path: str, /) -> bool:
    """Let the lock go around the `fuse_reply_buf` that the loaded library at `path` would call by itself.

    Whether there is one: where libfuse is part of the library, it does not call ours. Raises OSError when nothing is
    loaded from there.
    """
