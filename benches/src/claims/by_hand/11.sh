# 300 MB for a parent that has written 200, and its children: those that read live, the one that
# writes all of it is killed, and the parent goes on
cat > pressure.py <<'END'
import mmap, os, signal, time
size = 200 << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, size, 4096):
    memory[page] = 1
children = []
for does in ("reads", "reads", "reads", "writes"):
    child = os.fork()
    if child == 0:
        if does == "writes":
            open("/proc/self/oom_score_adj", "w").write("1000")
        for page in range(0, size, 4096):
            if does == "writes":
                memory[page] = 2
            else:
                memory[page]
        signal.pause()
    children.append((child, does))
time.sleep(3)
for child, does in children:
    ended, status = os.waitpid(child, os.WNOHANG)
    print(f"the child that {does}:", f"killed by signal {status & 127}" if ended else "lives")
    if not ended:
        os.kill(child, signal.SIGKILL)
print("the parent lives")
END
systemd-run --scope --property MemoryMax=300M --property MemorySwapMax=0 python3 pressure.py
rm pressure.py
