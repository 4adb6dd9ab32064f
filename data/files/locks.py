"""File locks, and file systems that have none."""

import errno
import fcntl

# What NFS without its lock service, Lustre without `-o flock` and some FUSE systems answer.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False where the file system has no locks.

    Without a lock nothing is kept out: what that means is for the caller to say.

    Raises:
        BlockingIOError: another process has it, and `wait` is false.
    """
    flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, flags)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
