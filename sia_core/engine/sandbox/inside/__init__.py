"""Code that runs inside bubblewrap: the zygote and the last steps before untrusted code.

Standard library only. This directory is bound read-only into the sandbox under the package name
`sia_inside`, without the rest of the project, so its modules must not import `sia_core`. Untrusted
code can read these files and, through frames, the zygote's globals, so neither may ever hold a secret.
"""
