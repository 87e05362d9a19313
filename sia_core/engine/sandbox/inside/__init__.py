"""Code that runs inside bubblewrap: the zygote and the last steps before untrusted code.

Standard library only. This directory is bound read-only into the sandbox under the package name
`sia_inside`; nothing else of the project is visible there, so nothing here may import
`sia_core`. Untrusted code can read these files and, through frames, the zygote's globals: no
secret may ever be in either.
"""
