r"""Building an ext4 file system from plain nodes: it is planned first, then written in one pass.

::

    from ext4img.mkfs import Node, Options, plan, write

    nodes = [Node((), 0o040755), Node((b"notes.txt",), 0o100644, size=6, body=1)]
    made = plan(nodes, Options(label="notes"))      # sizes, numbers and places, or a BuildError
    print(*made.lines(), sep="\n")
    write(made, bodies.__getitem__, "out.img")      # bodies[1].read_at(offset, length) -> bytes

Nothing here knows of archives, keys or other images. Callers pass every name as it is stored, and
the ciphertext as the body of an encrypted file. Names, contents and contexts are kept byte for byte.
Keys then work if UUID, inode numbers and block size are those that the policies require; `Options`
describes them.
"""

from ext4img.mkfs.nodes import Node, RandomAccessBody, stored_xattr
from ext4img.mkfs.options import Options
from ext4img.mkfs.plan import Plan, plan
from ext4img.mkfs.write import write
from ext4img.volume.xattr import ENCRYPTION_CONTEXT

__all__ = ["ENCRYPTION_CONTEXT", "Node", "Options", "Plan", "RandomAccessBody", "plan", "stored_xattr", "write"]
