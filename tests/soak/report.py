"""What a soak has shown, read from its files: each promise held, broken, or not yet to be judged."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from samples import ProcessSample, Stall, StreamSample, read

from pam_daemon.clock import NS_PER_S, parse_rfc3339
from pam_daemon.journal import Journal
from pam_daemon.records import Wire

SETTLED_S = 120.0  # from then on threads and descriptors stay as they are
WARM_S = 600.0  # from then on memory is judged
JUDGED_S = 2700.0  # the least time whose slope tells anything
SLOPE_MB_PER_H = 4.0  # in hours what has a bound still fills: SQLite's cache takes 1.2 MB a 1000 records, up to 2 MB
CLOCK_S = 2.0  # what an effort may differ from the clock: the device's buffer, and a worker that is late
NEAR_S = 30.0  # of a gap, a stall explains it
HEARD_SHARE = 0.5  # of the calls played, at least
GROWTH_MB = 4.0  # of a replay, between two hours of stream
FROM_H, TO_H = 10.0, 100.0
SAME_SHARE = 0.05
STREAMS = 4

Promise = tuple[str, bool | None, str]  # what was promised; held, broken or not judged (None); what was seen


def live(directory: Path, calls_per_s: float) -> Iterator[Promise]:
    """The live part's promises."""
    processes, streams = read(directory, ProcessSample), read(directory, StreamSample)
    stalls, records = read(directory, Stall), _journalled(directory / "journal")
    yield from _processes(processes)
    yield _identity(streams)
    yield _answers(processes, streams)
    yield from _gaps(records, stalls)
    yield _received(records, directory / "received.jsonl")
    yield _silent(directory / "listen.log")
    yield _efforts(records)
    yield _heard(records, calls_per_s)
    yield _ends(directory, records)


def replayed(directory: Path) -> Iterator[Promise]:
    """The fast part's promises."""
    samples = read(directory, ProcessSample)
    hours = samples[-1].at_s / 3600 if samples else 0.0
    early, late = (_around(samples, hour, "unique_mb") for hour in (FROM_H, hours))
    growth_mb = late - early
    held = None if growth_mb < GROWTH_MB and hours < TO_H - 1 else growth_mb < GROWTH_MB
    seen = f"{growth_mb:+.2f} MB: {early:.1f} at hour {FROM_H:g}, {late:.1f} at hour {hours:.1f}"
    promise = f"a replay's memory grows by less than {GROWTH_MB:g} MB from hour {FROM_H:g} to {TO_H:g}"
    yield promise, held if hours > FROM_H else None, seen if hours > FROM_H else f"hour {hours:.1f}"
    for what in ("threads", "descriptors"):  # where a file meets the next, there is one more for a moment
        before, after = (_around(samples, hour, what) for hour in (FROM_H, hours))
        yield f"{what} do not grow", after <= before if hours > FROM_H else None, f"{before:g}, then {after:g}"
    records = _journalled(directory / "journal")
    yield _received(records, directory / "received.jsonl")
    yield _beyond(records, hours)
    code, log = directory / "replay.exit", _text(directory / "replay.log")
    held = _text(code) == "0" if code.exists() and "interrupted" not in log else None
    yield "the replay ends in order", held, "\n".join([_code(code), *log.splitlines()[1:]])


def show(promises: Iterable[Promise]) -> bool:
    """Print them; whether none is broken."""
    whole = True
    for promise, held, seen in promises:
        verdict = {True: "held", False: "BROKEN", None: "not judged"}[held]
        first, *more = seen.split("\n")
        print(f"  {verdict:10s} {promise}: {first}")
        for line in more:
            print(f"             {line}")
        whole &= held is not False
    return whole


def _processes(samples: Sequence[ProcessSample]) -> Iterator[Promise]:
    by_name: dict[str, list[ProcessSample]] = defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)
    lasting = all(len({sample.pid for sample in own}) == 1 for own in by_name.values())
    seen = ", ".join(f"{name} {own[0].pid} ({_busy(own):.1%} of a core)" for name, own in by_name.items())
    yield "no process was started anew", lasting if samples else None, seen
    for name, own in by_name.items():
        settled = [sample for sample in own if sample.at_s >= SETTLED_S]
        for what in ("threads", "descriptors"):
            promise, held, seen = _constant(what, settled)
            yield f"{name}: {promise}", held, seen
        yield _slope(name, [sample for sample in own if sample.at_s >= WARM_S])


def _busy(samples: Sequence[ProcessSample]) -> float:
    return (samples[-1].cpu_s - samples[0].cpu_s) / max(samples[-1].at_s - samples[0].at_s, 1.0)


def _constant(what: str, samples: Sequence[ProcessSample]) -> Promise:
    seen = sorted({int(getattr(sample, what)) for sample in samples})
    return f"{what} stay the same", len(seen) == 1 if len(samples) > 1 else None, f"{seen} in {len(samples)} samples"


def _slope(name: str, samples: Sequence[ProcessSample]) -> Promise:
    promise = f"{name}: unique memory grows by less than {SLOPE_MB_PER_H:g} MB/h"
    if not samples or samples[-1].at_s - samples[0].at_s < JUDGED_S:
        return promise, None, f"less than {JUDGED_S / 60:g} min after {WARM_S / 60:g} min of warm-up"
    hours = np.array([sample.at_s for sample in samples]) / 3600
    memory_mb = np.array([sample.unique_mb for sample in samples])
    half = len(hours) // 2
    slope, late = (float(np.polyfit(hours[n:], memory_mb[n:], 1)[0]) for n in (0, half))
    seen = f"{slope:+.2f} MB/h ({late:+.2f} in the second half), {memory_mb[0]:.1f} to {memory_mb[-1]:.1f} MB"
    return promise, slope < SLOPE_MB_PER_H, seen


def _around(samples: Sequence[ProcessSample], hour: float, what: str) -> float:
    """The median within half an hour of stream."""
    near = [getattr(sample, what) for sample in samples if abs(sample.at_s / 3600 - hour) <= 0.5]
    return float(np.median(near)) if near else 0.0


def _identity(streams: Sequence[StreamSample]) -> Promise:
    wrong = [s for s in streams if s.elapsed_samples != _sum(s)]
    lags_s = [s.lag_s for s in streams] or [0.0]
    seen = (
        f"{len(wrong)} of {len(streams)} wrong; lag {np.median(lags_s):.1f} s in the median, {max(lags_s):.1f} at most"
    )
    return "elapsed = analysed + gap + skipped + pending in every status", not wrong if streams else None, seen


def _sum(sample: StreamSample) -> int:
    return sample.analysed_samples + sample.gap_samples + sample.skipped_samples + sample.pending_samples


def _answers(processes: Sequence[ProcessSample], streams: Sequence[StreamSample]) -> Promise:
    asked, answered = {s.at_s for s in processes}, {s.at_s for s in streams}
    unheard = sorted({f"{s.stream} {s.source} at {s.at_s:.0f} s" for s in streams if not s.stream.startswith(s.source)})
    whole = len(asked) == len(answered) and len(streams) == STREAMS * len(answered) and not unheard
    seen = f"{len(answered)} of {len(asked)} answered; not heard: {', '.join(unheard) or 'none'}"
    return f"`pamd status` shows {STREAMS} streams that are heard", whole if asked else None, seen


def _journalled(path: Path) -> list[Wire]:
    if not path.exists():
        return []
    with closing(Journal(path)) as journal:
        records: list[Wire] = []
        while batch := journal.since(records[-1]["seq"] if records else 0):
            records += batch
    return records


def _beyond(records: Sequence[Wire], hours: float) -> Promise:
    """The same sound turned: numbers of 31 bits and more change nothing."""
    promise = f"past sample 2^31, calls are heard as often as before, within {SAME_SHARE:.0%}"
    calls = [record for record in records if record["kind"] == "detection"]
    past = [call["start_s"] / 3600 for call in calls if call["start_sample"] >= 2**31]
    if not past:
        return promise, None, f"{len(calls)} detections, none there"
    before = (len(calls) - len(past)) / past[0]
    after = len(past) / (hours - past[0])
    return promise, abs(after / before - 1) <= SAME_SHARE, f"{before:.1f} an hour before, {after:.1f} after"


def _gaps(records: Sequence[Wire], stalls: Sequence[Stall]) -> Iterator[Promise]:
    """Every stretch not analysed, and whether this machine was seen to stand still about then."""
    lines, unexplained = [], 0
    for gap in (record for record in records if record["kind"] == "gap"):
        end_ns = parse_rfc3339(gap["start_utc"]) + int(gap["duration_s"] * NS_PER_S)
        why = _explanation(gap, end_ns, stalls)
        unexplained += why is None
        what = f"{gap['stream']} {gap['term']} {gap['reason']} {gap['duration_s']:.3f} s at {gap['start_utc']}"
        lines.append(f"{what}: {why or 'UNEXPLAINED'}")
    longest_s = max((stall.held_s for stall in stalls), default=0.0)
    seen = (
        f"{len(lines)} gaps; the machine held up a sleeping process {len(stalls)} times, by {longest_s:.1f} s at most"
    )
    yield "no gap is unexplained", not unexplained if records else None, "\n".join([seen, *lines])
    events = [record for record in records if record["kind"] == "event" and record["severity"] != "info"]
    warned = [f"{event['stream']} {event['time_utc']} {event['what']}: {event['text']}" for event in events]
    yield "events that warn", None, "\n".join([str(len(warned)), *warned])


def _explanation(gap: Wire, end_ns: int, stalls: Sequence[Stall]) -> str | None:
    """Why there is a gap: what lay between two others was too short, or the machine itself stood still for as long."""
    if gap["reason"] == "short_segment":
        return "less than a window"
    held_s = max((s.held_s for s in stalls if abs(s.utc_ns - end_ns) <= NEAR_S * NS_PER_S), default=0.0)
    return f"the machine stood still for {held_s:.1f} s then" if held_s >= gap["duration_s"] / 2 else None


def _received(records: Sequence[Wire], path: Path) -> Promise:
    promise = "the subscriber gets every record, as it is in the journal"
    wires: list[Wire] = []
    # The last line may be half a record: more is being written.
    wires += (json.loads(line) for line in _text(path).splitlines(keepends=True) if line.endswith("\n"))
    first = next((wire["time_utc"] for wire in wires if wire["kind"] == "status"), None)
    if first is None:
        return promise, None, "it has not heard anything yet"
    by_seq = {wire["seq"]: wire for wire in wires if wire["kind"] != "status"}
    # A record that has just been committed may still be on its way.
    latest = wires[-1]["time_utc"]
    expected = [record for record in records if first < record["time_utc"] < latest]
    lost = [record["seq"] for record in expected if by_seq.get(record["seq"]) != record]
    statuses = [parse_rfc3339(wire["time_utc"]) / NS_PER_S for wire in wires if wire["kind"] == "status"]
    longest_s = max(np.diff(statuses), default=0.0)
    seen = f"{len(expected) - len(lost)} of {len(expected)}; heartbeats at most {longest_s:.1f} s apart"
    return promise, not lost, seen


def _silent(log: Path) -> Promise:
    said = _text(log).strip()
    return "the subscriber is never deaf", not said, f"it said {said or 'nothing'}"


def _efforts(records: Sequence[Wire]) -> Promise:
    promise = f"effort equals the clock's time within {CLOCK_S:g} s"
    differences: dict[str, list[float]] = defaultdict(list)
    for effort in (record for record in records if record["kind"] == "effort"):
        passed_s = (parse_rfc3339(effort["time_utc"]) - parse_rfc3339(effort["start_utc"])) / NS_PER_S
        differences[effort["stream"]].append(passed_s - effort["elapsed_samples"] / effort["sample_rate_hz"])
    if not differences:
        return promise, None, "no effort record yet"
    worst = max(abs(difference) for own in differences.values() for difference in own)
    seen = [f"{name}: {', '.join(f'{difference:+.2f}' for difference in own)}" for name, own in differences.items()]
    return promise, worst <= CLOCK_S, "\n".join([f"the clock less the samples, in s, at most {worst:.2f}", *seen])


def _heard(records: Sequence[Wire], calls_per_s: float) -> Promise:
    promise = f"at least {HEARD_SHARE:.0%} of the calls that were played are heard on every stream"
    efforts = {record["stream"]: record for record in records if record["kind"] == "effort"}
    if len(efforts) < STREAMS:
        return promise, None, "no effort record yet"
    shares = {}
    for stream, effort in efforts.items():
        heard = sum(r["kind"] == "detection" and r["stream"] == stream and r["seq"] < effort["seq"] for r in records)
        shares[stream] = heard / max(1.0, calls_per_s * effort["elapsed_samples"] / effort["sample_rate_hz"])
    return promise, min(shares.values()) >= HEARD_SHARE, ", ".join(f"{s} {share:.0%}" for s, share in shares.items())


def _ends(directory: Path, records: Sequence[Wire]) -> Promise:
    promise = "at SIGTERM the daemon analyses what was captured and ends in order"
    codes = [directory / "daemon.exit", directory / "listen.exit"]
    if not all(code.exists() for code in codes):
        return promise, None, "it still runs"
    last = {record["stream"]: record for record in records if record["kind"] == "effort"}
    pending = sum(effort["pending_samples"] for effort in last.values())
    held = [_code(code) for code in codes] == ["exit code 0"] * 2 and len(last) == STREAMS and pending == 0
    return promise, held, f"daemon {_code(codes[0])}, subscriber {_code(codes[1])}; {pending} samples pending"


def _code(path: Path) -> str:
    return f"exit code {_text(path)}" if path.exists() else "it still runs"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
