"""Types of _reply.c."""

def stand_for(path: str, /) -> None:
    """Let the lock go around the `fuse_reply_buf` that the loaded library at `path` would call by itself.

    Raises OSError when nothing is loaded from there.
    """
