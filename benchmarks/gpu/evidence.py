"""Stage 6: the registered study of relations in its GPU form, as far as the time goes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import InexactError, main, needs
from botvision.files import read_json, write_json

PLACE = Path("runs/relations")  # scenes; kept, so that a second call goes on with them
LOOK = 5.0  # seconds between looks at how far it is
SPARE = 20.0  # seconds for what is under way to end in
TOY_TRIALS = 1


def evidence(out: Path, toy: bool) -> str:
    """Go on with the study's trials, the search first, and file each as it ends.

    Raises:
        SkippedError: something that trains is missing.
        InexactError: a trial failed.
    """
    needs("timm", "torchvision", "sklearn")
    results = Results(out / "6_evidence.json", "Relations in the GPU's form", toy=toy)
    end = time.monotonic() + float(os.environ.get("BOUND", 600)) - SPARE
    form, place = ("toy", out / "evidence") if toy else ("gpu", PLACE)
    filed = place / form / "results"
    restore(results.rows, filed)
    with subprocess.Popen(command(form, place), start_new_session=True) as sweep:
        while sweep.poll() is None:
            time.sleep(LOOK if not toy else 0.2)
            results.rows = trials(filed)
            results.save()
            if time.monotonic() > end:
                os.killpg(sweep.pid, signal.SIGTERM)  # its own processes too, which hold the GPU
                break
    results.rows = trials(filed)
    results.save()
    told = f"{len(results.rows)} trials are filed"
    if sweep.returncode and time.monotonic() <= end:
        raise InexactError(f"a trial failed; {told}")
    return told


def command(form: str, place: Path) -> list[str]:
    """The study from where it is, without the command line's packages."""
    limit = TOY_TRIALS if form == "toy" else None
    call = f"sys.exit(bool(relations(form={form!r}, out=Path({str(place)!r}), limit={limit}).failed))"
    imports = "import sys; from pathlib import Path; from studies.relations.sweep import relations"
    return [sys.executable, "-c", f"{imports}\nif __name__ == '__main__': {call}"]


def trials(filed: Path) -> list[dict[str, Any]]:
    """What has a result, with its file's name."""
    return [{"file": path.name, **read_json(path, what="result of a trial")} for path in sorted(filed.glob("*_*.json"))]


def restore(rows: list[dict[str, Any]], filed: Path) -> None:
    """Results of an earlier call as files, where a fresh machine has none: they are not trained again."""
    for row in rows:
        if not (filed / row["file"]).is_file():
            filed.mkdir(parents=True, exist_ok=True)
            write_json(filed / row["file"], {name: value for name, value in row.items() if name != "file"})


if __name__ == "__main__":
    sys.exit(main(evidence))
