# page frames are shared until they are written: a child that writes 10 of 100 MiB
python3 - <<'END'
import mmap, os
memory = mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(b"x" * (100 << 20))
if os.fork() == 0:
    memory.seek(0)
    memory.write(b"y" * (10 << 20))
    os.system(f"grep -E 'Rss|Pss:|Shared_Dirty|Private_Dirty' /proc/{os.getpid()}/smaps_rollup")
    os._exit(0)
os.wait()
END
# open files are shared, with the place where one reads: the child takes the first line
printf 'one\ntwo\n' | { (read -r line; echo "child: $line"); read -r line; echo "parent: $line"; }
# the working directory and limits are copied: the parent keeps its own
(cd / && ulimit -n 64); pwd; ulimit -n
