"""Other tools' SAEs, read and written: one module each. See README.md beside this file for the decisions.

`SAE.load` reads every format here; `export` writes those that can be written.
"""

from saelab.interop.origin import Origin
from saelab.interop.writing import WRITABLE, export

__all__ = ["WRITABLE", "Origin", "export"]
