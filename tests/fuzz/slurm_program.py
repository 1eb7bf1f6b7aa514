"""squeue, sacct, scontrol, sbatch, scancel, sinfo and srun of a cluster whose answers are damaged.

Called by the name of the program, in a folder with ``jobs.json`` (what the cluster knows) and
``damage.json`` (program → seeds of the damage to its answer). What was asked is noted in
``calls``. Fields are those that the command line asks for, so that no question is foreseen here.
"""

import fcntl
import json
import os
import random
import re
import sys
import time
from pathlib import Path

STATES = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY",
          "NODE_FAIL", "PREEMPTED", "SUSPENDED", "REQUEUED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "",
          "CANCELLED by 1000", "CANCELLED+", "running", "???", "R")
BANNERS = ("*** Welcome to greene ***\n", "Submitted batch job 23\n", "\x1b[1mNews\x1b[0m\n", "\n",
           "squeue: warning: slow controller\n", "JOBID STATE REASON\n", "100\n", "99|FAILED|1:0\n")


def main():
    program, words = Path(sys.argv[1]).name, sys.argv[2:]
    folder = Path(sys.argv[1]).parent
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(folder / "calls", "a") as calls:
            calls.write(json.dumps([program, *words]) + "\n")
        jobs = json.loads((folder / "jobs.json").read_text())
        out, code = answer(program, words, jobs)
        (folder / "jobs.json").write_text(json.dumps(jobs))
    err = ""
    clean = out
    seeds = json.loads((folder / "damage.json").read_text()).get(program, [])
    sys.path.insert(0, str(Path(__file__).parent))
    for seed in seeds:
        out, err, code = spoilt(out, err, code, random.Random(seed))
    if program == "sbatch" and not certain(clean, out):
        out = clean  # a wrong number that looks right cannot be told from a right one
    sys.stdout.buffer.write(out.encode("utf-8", "surrogateescape"))
    sys.stderr.write(err)
    return code


def answer(program, words, jobs):
    """What a cluster in order says."""
    if program == "sbatch":
        number = max([100, *(int(job["id"]) for job in jobs)]) + 1
        script = next((word for word in reversed(words) if not word.startswith("-")), "")
        try:
            text = Path(script).read_text()
        except OSError:
            text = ""
        name = re.search(r"--job-name[= ](\S+)", text)
        log = re.search(r"--output[= ](\S+)", text)
        array = re.search(r"^#SBATCH --array[= ](\S+)", text, re.MULTILINE)
        jobs.append({"id": str(number), "task": array[1] if array else "", "state": "PENDING",
                     "name": name[1].strip("\"'") if name else "job", "script": script,
                     "log": log[1].strip("\"'") if log else "", "line": f"sbatch {' '.join(words)}",
                     "submitted": time.strftime("%Y-%m-%dT%H:%M:%S")})
        if "--test-only" in words:
            jobs.pop()
            return "", 0
        return (f"{number}\n" if "--parsable" in words else f"Submitted batch job {number}\n"), 0
    if program == "scancel":
        named = {word.split("_")[0] for word in words if word[:1].isdigit()}
        for job in jobs:
            if job["id"] in named:
                job["state"] = "CANCELLED"
        return "", 0
    if program == "scontrol":
        if "job" in words:
            known = [job for job in jobs if job["id"] in " ".join(words)]
            return "\n".join(
                f"JobId={job['id']} JobName={job['name']}\n   UserId={user()}(0) GroupId=x(0)\n"
                f"   JobState={job['state']} Reason=None Dependency=(null)\n"
                f"   Command={job['script']}\n   SubmitTime={job['submitted']}\n"
                for job in known) + "\n", 0 if known else 1
        return "ClusterName = greene\nMaxArraySize = 1001\nMinJobAge = 300 sec\n", 0
    if program in ("squeue", "sacct"):
        return table(program, words, jobs), 0
    if program == "sinfo":
        return "cpu*|up|1-00:00:00|4|8|16000|(null)|idle\n", 0
    if program == "sacctmgr":
        return "", 0
    return "", 0


def table(program, words, jobs):
    """The asked fields of all jobs."""
    asked, kind = "JobID", "wide"
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        value = value if equals else words[place + 1] if place + 1 < len(words) else ""
        if name in ("--Format", "-O", "--format", "-o"):
            asked = value
            kind = "wide" if name in ("--Format", "-O") else kind
        if name in ("--parsable2", "-P", "--parsable", "-p"):
            kind = "bars"
        if name == "--delimiter":
            kind = value
    lines = []
    for job in each_task(jobs):
        over = job["state"] not in ("PENDING", "RUNNING")
        if program == "squeue" and over and "--states=all" not in words and "all" not in words:
            continue
        whole = f"{job['id']}_[{job['task']}]" if job["task"] else job["id"]
        ran = job["state"] != "PENDING"
        values = {
            "jobarrayid": whole, "jobid": whole if program == "sacct" else job["id"],
            "arrayjobid": job["id"], "arraytaskid": job["task"] or "N/A", "state": job["state"],
            "jobidraw": job["id"], "reason": "None", "timeused": "2:03" if ran else "0:00",
            "starttime": "N/A", "start": "Unknown", "restartcnt": "0", "timelimit": "5:00",
            "exit_code": "256" if job["state"] == "FAILED" else "0", "nodelist": "n1" * ran,
            "exitcode": "1:0" if job["state"] == "FAILED" else "0:0", "elapsedraw": "123",
            "elapsed": "00:02:03", "command": job["script"], "name": job["name"],
            "jobname": job["name"], "user": user(), "username": user(), "cluster": "greene",
            "submittime": job["submitted"], "submit": job["submitted"],
            "dependency": "(null)", "partition": "cpu", "account": "pr", "maxrss": "100M",
            "reqmem": "1G", "alloccpus": "1", "totalcpu": "00:01:00", "submitline": job["line"],
            "stdout": job["log"], "stdoutfile": job["log"],
            "workdir": "/", "comment": "", "admincomment": ""}
        cells = []
        for field in asked.split(","):
            name, colon, width = field.strip(" ").partition(":")
            name, percent, more = name.partition("%")
            text = values.get(name.lower(), "")
            size = re.match(r"\.?(\d*)(.*)", width or more, re.DOTALL)
            number = int(size[1] or 20)
            if kind != "wide":
                cells.append(text)
            elif number:
                cells.append(text[:number].ljust(number) + size[2])
            else:  # size 0: whole, and what stands behind the size ends it
                cells.append(text + size[2])
        bar = "|" if kind == "bars" else kind
        lines.append("".join(cells) if kind == "wide" else bar.join(cells))
    return "".join(f"{line}\n" for line in lines)


def each_task(jobs):
    """The jobs; of an array that has begun, its tasks."""
    for job in jobs:
        span = re.fullmatch(r"(\d+)-(\d+)", job["task"])
        if span is None or job["state"] == "PENDING":
            yield job
            continue
        for index in range(int(span[1]), int(span[2]) + 1):
            yield {**job, "id": f"{job['id']}_{index}", "task": ""}


def certain(clean, out):
    """Whether the number of sbatch's answer is there, or nothing that reads as one."""
    alone = re.fullmatch(r"\s*(?:Submitted batch job )?(\d+)(?:;\S*)?\s*\n", out)
    return alone is None or alone[1] == re.search(r"\d+", clean + "0")[0]


def spoilt(out, err, code, rng):
    """An answer truncated, in another order, with a banner, an odd state, or none at all."""
    from damage import text, word

    lines = out.splitlines(keepends=True)
    kind = rng.randrange(14)
    if kind == 0:
        return out[:rng.randrange(len(out) + 1)], err, code
    if kind == 1:
        rng.shuffle(lines)
        return "".join(lines), err, code
    if kind == 2:
        return rng.choice(BANNERS) + out, err, code
    if kind == 3:
        return out + rng.choice(BANNERS), err, code
    if kind == 4:
        return re.sub(r"PENDING|RUNNING|FAILED|COMPLETED", lambda _: rng.choice(STATES), out), \
            err, code
    if kind == 5:
        return "", f"{rng.choice(('slurm', 'x'))}: error: Unable to contact slurm controller\n", 1
    if kind == 6:
        return out, "error: Socket timed out on send/recv operation\n", 1
    if kind == 7:
        return "", "", rng.choice((0, 1, 2, 127))
    if kind == 8:
        return out, f"warning: {word(rng)}\n".encode("utf-8", "replace").decode(), code
    if kind == 9:
        lines.insert(rng.randrange(len(lines) + 1), word(rng).encode(
            "utf-8", "replace").decode() + "\n")
        return "".join(lines), err, code
    if kind == 10:
        return re.sub(r"\d+", lambda found: rng.choice((
            found[0], found[0], found[0] + "0", "-1", "99999999999999999999", "", "N/A", "1e3")),
            out), err, code
    if kind == 11:
        return out.replace("_[", rng.choice(("_[0-999999999,", "_[9-0,", "_[%", "_[-,"))), err, code
    if kind == 12:
        return out * rng.choice((2, 3)), err, code
    held = text(out.encode("utf-8", "surrogateescape"), rng)
    return held.decode("utf-8", "surrogateescape"), err, code


def user():
    import getpass

    try:
        return getpass.getuser()
    except OSError:
        return str(os.getuid())


if __name__ == "__main__":
    sys.exit(main())
