"""A small made-up corpus in the formats of the real one, with its traps: odd labels, repeated texts, line breaks."""

import csv
import io
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from sia_core.domain.hashing import digest_bytes

CHARGES = (
    "[走私、贩卖、运输、制造]毒品",
    "盗窃",
    "抢劫",
    "[盗窃、抢夺]枪支",
    "[生产、销售]假药",
    "放火",
    "失火",
    "诈骗",
    "合同诈骗",
    "故意伤害",
)
ROWS = 24
"""Labelled rows of each charge; the last has two."""
WORDS = "张王李赵刘陈杨黄周吴徐孙胡朱高林何郭马罗"
Row = tuple[int, str, str]


def labelled() -> list[Row]:
    """Labelled rows; two of them have the same text but for spacing."""
    rng = random.Random(5)
    rows = [(charge, number) for number in range(ROWS) for charge in CHARGES if number < 2 or charge != CHARGES[-1]]
    made = [(index, _text(charge, rng), charge) for index, (charge, _) in enumerate(rows)]
    made[7] = (7, made[17][1].replace("，", "， \n"), made[17][2])
    return made


def sealed() -> list[Row]:
    """Test rows, of which the first and the second repeat labelled texts, the second with other spacing."""
    rng = random.Random(6)
    rows = labelled()
    made = [
        (number, _text(CHARGES[number % len(CHARGES)], rng), CHARGES[number % len(CHARGES)]) for number in range(40)
    ]
    made[0] = (0, rows[30][1], rows[30][2])
    made[1] = (1, f" {rows[31][1]}\u3000", rows[31][2])
    return made


def write(folder: Path) -> dict[str, str]:
    """Write the four files; the pins that task.toml would have for them."""
    rows, test = labelled(), sealed()
    files = {
        "train.csv": _csv(("id", "text", "label"), rows),
        "test.csv": _csv(("id", "text"), [(number, text) for number, text, _ in test]),
        "answers.csv": _csv(("id", "label"), [(number, label) for number, _, label in reversed(test)]),
        "classes.json": json.dumps(CHARGES, ensure_ascii=False, indent=2).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    pins = {f"{name.partition('.')[0]}_sha256": digest_bytes(data) for name, data in files.items()}
    return {**pins, "train": "40", "gate": "40"}


def _text(charge: str, rng: random.Random) -> str:
    """Sentences in which bigrams of the charge's own name and of its own crowd are common."""
    own = [charge.strip("[]")[at : at + 2] for at in range(len(charge) - 2)] + [chr(0x6E00 + CHARGES.index(charge))]
    parts = [rng.choice(own) + "".join(rng.choices(WORDS, k=6)) for _ in range(12)]
    return "，".join(parts) + "。"


def _csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows(rows)
    return file.getvalue().encode()
