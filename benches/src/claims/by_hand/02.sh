# fork(2) of a process with so much memory written, and its page tables
python3 - <<'END'
import mmap, os, time
for mib in (10, 100, 1000):
    memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(0, mib << 20, 4096):
        memory[page] = 1
    begun = time.perf_counter()
    child = os.fork() or os._exit(0)
    took = time.perf_counter() - begun
    os.waitpid(child, 0)
    tables = next(line for line in open("/proc/self/status") if "VmPTE" in line).split()[1]
    print(f"{mib} MiB: fork {took * 1e6:.0f} us, page tables {tables} kB")
    memory.close()
END
# the same of a process that runs
grep -E 'VmPTE|VmRSS' /proc/PID/status
