"""Building an ext4 file system from plain nodes: planned first, then written in one pass.

`plan(nodes, options)` decides sizes, numbers and places; `write(plan, bodies, path)` follows it.
Nothing here knows of archives, keys or other images.
"""

from ext4img.build.nodes import ENCRYPTION_KEY, Body, Node, stored_xattr
from ext4img.build.options import Options
from ext4img.build.plan import Plan, plan
from ext4img.build.write import write

__all__ = ["ENCRYPTION_KEY", "Body", "Node", "Options", "Plan", "plan", "stored_xattr", "write"]
