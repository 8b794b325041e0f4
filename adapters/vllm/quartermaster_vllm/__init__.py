"""vLLM v1's BlockPool and KVCacheManager over the quartermaster core. See README.md beside this folder."""

from .block_pool import BlockPool
from .blocks import KVCacheBlock
from .cache_blocks import KVCacheBlocks
from .install import install
from .library import QuartermasterError
from .manager import KVCacheManager
from .parity import ParityError, ParityManager
from .versions import Version

__all__ = [
    "BlockPool",
    "KVCacheBlock",
    "KVCacheBlocks",
    "KVCacheManager",
    "ParityError",
    "ParityManager",
    "QuartermasterError",
    "Version",
    "install",
]
