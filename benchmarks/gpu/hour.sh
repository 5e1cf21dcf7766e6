#!/usr/bin/env bash
# Runs the stages of one hour on a GPU, the most worth having first; each leaves its file as it goes.
set -u

usage() {
    cat <<'END'
usage: benchmarks/gpu/hour.sh [--toy] OUT

  OUT      folder of the results; a second run into it goes on where the first was broken off
  --toy    smallest sizes on the CPU: proves the script, nothing else

  ONLY="1 2"       run these stages alone        SKIP="6"        leave these out
  LIMIT=570        seconds for all of them       PYTHON=python3  the interpreter that has torch

  0 look        what is there, what is missing       4 family      T3 … T7 beside B4 … B7
  1 exactness   every backend against float64        5 prediction  images a second
  2 attention   time and memory of every backend     6 evidence    relations, BoT50 and ResNet-50
  3 detector    Mask R-CNN's training step           7 tiles       on demand (ONLY=7): tune the Triton kernel
END
}

names=(look exactness attention detector family prediction evidence tiles)
bounds=(60 150 210 170 120 120 1200 540) # seconds
toy=()
out=
for argument in "$@"; do
    case $argument in
        --toy) toy=(--toy) ;;
        -h | --help) usage; exit 0 ;;
        -*) echo "hour.sh: unknown option $argument; see --help" >&2; exit 2 ;;
        *) if [[ -n $out ]]; then echo "hour.sh: one folder is needed; got $out and $argument" >&2; exit 2; fi; out=$argument ;;
    esac
done
if [[ -z $out ]]; then usage >&2; exit 2; fi
for word in ${ONLY-} ${SKIP-}; do
    if [[ ! $word =~ ^[0-7]$ ]]; then echo "hour.sh: ONLY and SKIP take stages 0 to 7; got $word" >&2; exit 2; fi
done
if [[ ! ${LIMIT:-3600} =~ ^[1-9][0-9]*$ ]]; then echo "hour.sh: LIMIT takes seconds; got $LIMIT" >&2; exit 2; fi
if ! mkdir -p "$out" 2>/dev/null || ! { : >>"$out/hour.log"; } 2>/dev/null; then
    echo "hour.sh: cannot write into $out; give another folder" >&2
    exit 2
fi
out=$(cd "$out" && pwd)
log=$out/hour.log
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 2
python=${PYTHON:-python3}
export PYTHONPATH="$root/src:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if ((${#toy[@]})); then export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi # more threads wait for each other on a busy CPU

running=
stopped=0
stop() {
    stopped=$1
    if [[ -n $running ]]; then kill -TERM "$running" 2>/dev/null; fi
}
trap 'stop 143' TERM
trap 'stop 130' INT
trap 'stop 129' HUP

wanted() {
    if [[ $1 == 7 && " ${ONLY-} " != *" 7 "* ]]; then return 1; fi
    if [[ -n ${ONLY-} && $1 != 0 && " $ONLY " != *" $1 "* ]]; then return 1; fi
    [[ " ${SKIP-} " != *" $1 "* ]]
}

tenths() { local us=${EPOCHREALTIME/[.,]/}; echo $((us / 100000)); }

table=$(printf '%-13s %8s  %-10s %s' stage seconds status remark)
note() { # stage, tenths of a second, status, remark
    local line
    line=$(printf '%-13s %6d.%d  %-10s %s' "$1" $(($2 / 10)) $(($2 % 10)) "$3" "$4")
    table+=$'\n'$line
    echo "$line"
}

failed=0
end=$((SECONDS + ${LIMIT:-3600}))
for number in "${!names[@]}"; do
    name=${names[number]}
    if ! wanted "$number"; then note "$number $name" 0 "left out" ""; continue; fi
    left=$((end - SECONDS))
    if ((stopped || left < 10)); then note "$number $name" 0 "not begun" ""; continue; fi
    bound=$((bounds[number] < left ? bounds[number] : left))
    echo "== $number $name, at most $bound s, $(date -u '+%F %T')" >>"$log"
    begun=$(tenths)
    timeout --kill-after=10 "$bound" env BOUND="$bound" "$python" -m "benchmarks.gpu.$name" "$out" ${toy[@]+"${toy[@]}"} >>"$log" 2>&1 &
    running=$!
    wait "$running"
    code=$?
    while kill -0 "$running" 2>/dev/null; do # a signal ended the waiting, not the stage
        wait "$running"
        code=$?
    done
    running=
    took=$(($(tenths) - begun))
    remark=$(tail -n 1 "$log" | cut -c 1-160)
    rm -f "$out"/.unfinished-*
    case $code in
        0) status=done ;;
        77) status=skipped ;;
        124 | 137 | 143) status="cut off"; remark="its file has what was measured until then"; failed=1 ;;
        *) status="failed ($code)"; failed=1 ;;
    esac
    note "$number $name" "$took" "$status" "$remark"
    if [[ $status == failed* ]]; then tail -n 15 "$log" | sed 's/^/    /' >&2; fi
    if [[ $number == 0 && $code == 3 ]]; then stopped=3; fi # no GPU: at full size a CPU would take days
done
printf '\n%s\n' "$table" | tee -a "$log"
echo "results and hour.log in $out"
if ((stopped)); then exit "$stopped"; fi
exit "$failed"
