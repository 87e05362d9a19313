"""Format commands that messages and documents print, so that a shell reads them as they are meant."""

import shlex


def command(*words: object) -> str:
    """Return the command of these words, each quoted where a shell needs it."""
    return shlex.join(map(str, words))


def quoted(word: object) -> str:
    """Return one word of a command, quoted where a shell needs it."""
    return shlex.quote(str(word))
