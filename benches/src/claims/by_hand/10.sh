# faults of a process that runs, for ten seconds; since its start; of a command
perf stat -e page-faults,minor-faults,major-faults -p PID sleep 10
ps -o pid,min_flt,maj_flt,rss,comm -p PID
/usr/bin/time -v true 2>&1 | grep faults
# what it shares and what is its own, all mappings together and each
grep -E 'Rss|Pss:|Shared|Private' /proc/PID/smaps_rollup
grep -E '^[0-9a-f]+-|Private_Dirty|Shared_Dirty' /proc/PID/smaps
