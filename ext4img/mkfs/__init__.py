r"""Building an ext4 file system from plain nodes: planned first, then written in one pass.

::

    from ext4img.mkfs import Node, Options, plan, write

    nodes = [Node((), 0o040755), Node((b"notes.txt",), 0o100644, size=6, body=1)]
    made = plan(nodes, Options(label="notes"))      # sizes, numbers and places, or a BuildError
    print(*made.lines(), sep="\n")
    write(made, bodies.__getitem__, "out.img")      # bodies[1].read_at(offset, length) -> bytes

Nothing here knows of archives, keys or other images. Whoever comes from one of these hands over
every name as it is stored, with what the node's fields say; an encrypted file's body is its
ciphertext. Names, contents and contexts are kept byte for byte, so all that keys need is a UUID,
inode numbers and a block size that the policies bear: `Options` says which.
"""

from ext4img.mkfs.nodes import Node, RandomAccessBody, stored_xattr
from ext4img.mkfs.options import Options
from ext4img.mkfs.plan import Plan, plan
from ext4img.mkfs.write import write
from ext4img.volume.xattr import ENCRYPTION_CONTEXT

__all__ = ["ENCRYPTION_CONTEXT", "Node", "Options", "Plan", "RandomAccessBody", "plan", "stored_xattr", "write"]
