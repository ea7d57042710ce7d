"""Looking for a task's items in training rows: time and memory, on made-up words of natural frequencies.

Run by hand; the last line is JSON. Some items are put into rows, and those and no others must be found.

    python tests/benchmarks/contamination.py --rows 5000 --items 10000
    python tests/benchmarks/contamination.py --rows 5000 --items 10000 --leaked 10000
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import numpy as np

from phibench.harness.overlap import find_overlaps

_ROW, _TEXTS = 200, (60, 15, 15, 15, 15)  # words: of a row; of an item's question and four choices
_VOCABULARY = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--leaked", type=int, default=50, help="items whose question is put into a row")
    parser.add_argument("--tasks", type=int, default=1, help="into which the items are divided")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    chance = np.random.default_rng(0)
    words = np.array([f"w{number:x}" for number in range(_VOCABULARY)])

    def text(length: int) -> str:
        return " ".join(words[np.minimum(chance.zipf(1.2, length), _VOCABULARY) - 1])

    rows = [text(_ROW) for _ in range(args.rows)]
    items = [[text(length) for length in _TEXTS] for _ in range(args.items)]
    leaked = chance.permutation(args.items)[: args.leaked].tolist()
    for position in leaked:
        rows[position % args.rows] += " " + items[position][0]
    tasks = [items[start :: args.tasks] for start in range(args.tasks)]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(args.repeats):
        started = time.perf_counter()
        found = find_overlaps(rows, tasks)
        seconds.append(time.perf_counter() - started)
    named = {start + args.tasks * item for start, overlap in enumerate(found) for item in overlap.items}
    print(f"found {len(named):,} items in {sum(len(overlap.rows) for overlap in found):,} rows")
    print(
        json.dumps(
            {
                "rows": args.rows,
                "items": args.items,
                "tasks": args.tasks,
                "words": args.rows * _ROW + args.items * sum(_TEXTS) + args.leaked * _TEXTS[0],
                "leaked": args.leaked,
                "all_found": set(leaked) <= named,
                "others_found": len(named - set(leaked)),
                "seconds": round(statistics.median(seconds), 2),
                "spread": [round(min(seconds), 2), round(max(seconds), 2)],
                "more_memory_mib": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
