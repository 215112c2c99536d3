#!/bin/sh
# A stand-in for the engine: answers as `ulpm trust|serve|live` must, and "moves" the workload by
# killing it here and starting another there, which it dresses up as the old one (commands and
# statuses are passed on, with the old name and larger counters). What it is to do wrong is in
# the file $0.fault.
# Everything else (init of a host, the workload) is the real ulpm.
real=$(cat "$0.real")
fault=$(cat "$0.fault")
home=$ULPM_HOME
case $1 in
trust)
    [ "$2" = show ] && echo "SHA256:$(basename "$(dirname "$home")")"
    [ "$2" = add ] && echo "$3 $5" >>"$home/trusted"
    exit 0
    ;;
serve)
    [ "$fault" = serve-dies ] && { echo "cannot bind port 3490" >&2; exit 1; }
    echo "ready: listening on 0.0.0.0:3490" >&2
    while [ ! -e "$PWD/go" ]; do sleep 0.01; done
    old=$PWD/workload new=$PWD/workload2
    [ "$fault" = impostor ] && new=$old
    "$real" __workload --mem 1M --dirty-rate 1000 --threads 2 --dir "$new" </dev/null >/dev/null 2>&1 &
    echo $! >"$PWD/there.new" && mv "$PWD/there.new" "$PWD/there"
    [ "$fault" = impostor ] && wait
    name=$(sed 's/.*"instance":"\([^"]*\)".*/\1/' "$old/status.json")
    while [ -d "$old" ]; do
        [ -e "$old/stop" ] && touch "$new/stop"
        sed -e "s/\"instance\":\"[^\"]*/\"instance\":\"$name/" \
            -e 's/\(sequence\|pages_written\|pages_checked\|_hops\|_records\|_ticks\)":/&9000/g' \
            "$new/status.json" >"$old/dressed" 2>/dev/null && mv "$old/dressed" "$old/status.json"
        sleep 0.02
    done
    wait
    ;;
live)
    echo "round 0: 256 pages" >&2
    if [ "$fault" = refused ]; then
        echo '{"id":"x","outcome":"refused","pid":'"$3"',"target":"'"$5"'","target_pid":null,"pid_mode":"same","processes":0,"threads":0,"tracker":"","resident_bytes":0,"attach_ms":0,"precopy_ms":0,"rounds":[],"freeze_ms":0,"freeze_parts":{"stop":0,"capture":0,"scan":0,"send":0,"apply":0,"commit":0,"resume":0},"final_pages":0,"bytes_on_wire":0,"verified":false,"lazy":{"pages":0,"faults":0,"fault_p50_us":0,"fault_p99_us":0,"ms":0},"observed_gap_ms":null,"error":"fd 5 is a perf event"}'
        exit 3
    fi
    [ "$fault" = two-copies ] || kill -9 "$3"
    touch "$PWD/go"
    while [ ! -e "$PWD/there" ]; do sleep 0.01; done
    echo '{"id":"x","outcome":"moved","pid":'"$3"',"target":"'"$5"':3490","target_pid":'"$(cat "$PWD/there")"',"pid_mode":"same","processes":1,"threads":4,"tracker":"none","resident_bytes":1048576,"attach_ms":0,"precopy_ms":1,"rounds":[],"freeze_ms":1,"freeze_parts":{"stop":0,"capture":0,"scan":0,"send":0,"apply":0,"commit":0,"resume":0},"final_pages":0,"bytes_on_wire":0,"verified":true,"lazy":{"pages":0,"faults":0,"fault_p50_us":0,"fault_p99_us":0,"ms":0},"observed_gap_ms":null,"error":null}'
    ;;
*) exec "$real" "$@" ;;
esac
