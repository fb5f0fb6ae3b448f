#!/usr/bin/env python3
"""Compare `loadmaster bench` with llama.cpp's `llama-bench` or `llama-batched-bench` on the same files, turn by turn.

    python3 tests/scripts/compare_llama_bench.py --llama-bench PATH MODEL.gguf... [--rounds 5] [--threads 2] [--out DIR]
    python3 tests/scripts/compare_llama_bench.py --llama-batched-bench PATH --parallel 1,2,4 MODEL.gguf...

Each round runs one program, then the other, so that a machine whose speed drifts treats both alike; a round's value is
the mean of its repetitions, the result the median over rounds. Prints one line a model and test with the ratio (above 1
means loadmaster is faster) and writes a JSON record. Needs nothing but Python's standard library.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys


def run(command):
    """The rows that a program prints as JSON, all in one list or one a line."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr.strip()}")
    if done.stdout.lstrip().startswith("["):
        return json.loads(done.stdout)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def rates(rows):
    """Tokens a second by test."""
    named = {}
    for row in rows:
        if "pl" in row:
            named[f"pp{row['pp']} x{row['pl']}"] = row["speed_pp"]
            named[f"tg{row['tg']} x{row['pl']}"] = row["speed_tg"]
            continue
        test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        named[test] = row["avg_ts"]
    return named


def commands(options, model):
    """The two programs' command lines."""
    sizes = ["-p", options.prompt, "-n", options.gen, "-r", options.repetitions, "-t", options.threads]
    ours = [options.loadmaster, "bench", model, *sizes, "--json"]
    theirs = [options.llama_bench, "-m", model, *sizes, "-o", "json"]
    if options.llama_batched_bench:
        pages = -(-(options.prompt + options.gen) // 16) * 16
        cells = pages * max(int(n) for n in options.parallel.split(","))
        ours += ["--parallel", options.parallel]
        theirs = [options.llama_batched_bench, "-m", model, "-c", cells, "-npp", options.prompt, "-ntg", options.gen]
        theirs += ["-npl", options.parallel, "-t", options.threads, "-tb", options.threads, "--output-format", "jsonl"]
    return [str(word) for word in ours], [str(word) for word in theirs]


def cpu():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    peer = parser.add_mutually_exclusive_group(required=True)
    peer.add_argument("--llama-bench", help="the other program")
    peer.add_argument("--llama-batched-bench", help="the other program, for sequences side by side")
    parser.add_argument("--parallel", default="1,2,4,8,16", help="sequences side by side")
    parser.add_argument("--loadmaster", default="target/release/loadmaster", help="this program, a release build")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=2, help="repetitions within a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--commit", default="", help="revision of loadmaster, for the record")
    parser.add_argument("--out", default="bench-results", help="folder of the record")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")

    results, load_before = [], os.getloadavg()
    print(f"{'model':32} {'test':>9} {'loadmaster':>12} {'llama.cpp':>12} {'ratio':>7}  load")
    for model in options.models:
        rounds = {"loadmaster": [], "llama.cpp": []}
        peer_build, loads = "", []
        for _ in range(options.rounds):
            loads.append(os.getloadavg()[0])
            ours, theirs = commands(options, model)
            rounds["loadmaster"].append(rates(run(ours)))
            rows = run(theirs)
            peer_build = f"{rows[0].get('build_commit', '')} ({rows[0].get('build_number', '')})"
            rounds["llama.cpp"].append(rates(rows))
        name = os.path.basename(model)
        for test in rounds["loadmaster"][0]:
            ours = [r[test] for r in rounds["loadmaster"]]
            theirs = [r[test] for r in rounds["llama.cpp"]]
            ratio = statistics.median(ours) / statistics.median(theirs)
            print(
                f"{name:32} {test:>9} {statistics.median(ours):12.2f} {statistics.median(theirs):12.2f} "
                f"{ratio:7.3f}  {statistics.median(loads):.1f}",
                flush=True,
            )
            results.append(
                {
                    "model": name,
                    "model_size": os.path.getsize(model),
                    "test": test,
                    "ratio": ratio,
                    "loadmaster": {"median_ts": statistics.median(ours), "rounds_ts": ours},
                    "llama_cpp": {"median_ts": statistics.median(theirs), "rounds_ts": theirs, "build": peer_build},
                    "load_average_1min": loads,
                }
            )

    now = datetime.datetime.now(datetime.timezone.utc)
    peer = "llama-batched-bench" if options.llama_batched_bench else "llama-bench"
    record = {
        "what": f"tokens a second of loadmaster bench and {peer} on the same files, alternating; medians of rounds",
        "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": options.commit,
        "machine": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "target": f"{platform.machine()}-{platform.system().lower()}",
            "load_average_before": load_before,
        },
        "threads": options.threads,
        "rounds": options.rounds,
        "repetitions": options.repetitions,
        "results": results,
    }
    os.makedirs(options.out, exist_ok=True)
    path = os.path.join(options.out, now.strftime("%Y-%m-%dT%H-%M-%SZ") + f"-against-{peer}.json")
    with open(path, "w") as out:
        json.dump(record, out, indent=2)
        out.write("\n")
    print(f"record: {path}")


if __name__ == "__main__":
    main()
