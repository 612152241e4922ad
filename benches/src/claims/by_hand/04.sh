# page tables of a dense GiB: VmPTE in kB, 4 kB a page of the last level; then the sum of all
# levels that the kernel counts for the whole host
python3 - <<'END'
import mmap, os
def tables():
    return int(next(line for line in open("/proc/self/status") if "VmPTE" in line).split()[1])
before = tables()
memory = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(0, 1 << 30, 4096):
    memory[page] = 1
print(f"{tables() - before} kB: {(tables() - before) // 4} pages")
os.system("grep PageTables /proc/meminfo")
END
