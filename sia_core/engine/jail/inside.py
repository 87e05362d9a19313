"""First program in the jail: drop root, set limits, and become the command.

If hosts are allowed, the program opens a socket in the jail's own network and sends the socket to the proxy outside, so
that the proxy's address exists in the jail only. Standard library only.
"""

import os
import resource
import socket
import sys

_LIMITS = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_FSIZE, 1 << 30),
    (resource.RLIMIT_NOFILE, 4096),
    (resource.RLIMIT_NPROC, 2048),
)


def main(uid: int, control: int, proxy: bool, folder: str, command: list[str]) -> None:
    """Become the command, in `folder`.

    A `uid` of -1 keeps the current user. The socket `control` receives a message when the jail has started.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=control) as out:
        if proxy:
            _open_way(out)
        else:
            out.send(b"1")
    os.closerange(3, 1024)
    with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - nothing but os is needed
        file.write("1000")
    for kind, most in _LIMITS:
        _, hard = resource.getrlimit(kind)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    if uid >= 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.chdir(folder)  # Only this user can enter the folder.
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error}")


def _open_way(out: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        socket.send_fds(out, [b"1"], [listener.fileno()])
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = address
    os.environ["NODE_USE_ENV_PROXY"] = "1"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "proxy", sys.argv[4], sys.argv[5:])
