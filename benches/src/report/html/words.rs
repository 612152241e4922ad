//! What the page says in every run: what it is about, its words, its method.

use super::markup::Page;

/// What all of it is about.
pub const INTRODUCTION: &str = "\
<p>When a process calls <code>fork</code>, a second one goes on from the same instant. The kernel
does not copy its memory: both share every page until one of them writes to it, which is
copy-on-write. <code>tine</code> does the same to whole virtual machines under Linux KVM: one
machine becomes two, which share their memory until one of them writes.</p>
<p>This page takes eleven claims that are commonly made of fork and copy-on-write, and holds
them against what was measured on one host, for processes, of which the claims speak, and for
virtual machines. The rival is mostly the eager copy: all memory copied before the child runs.
Rivals were measured in turn, in the same run. Making a machine is timed until its first
instruction has run. A claim that the figures contradict is called contradicted.</p>
";

/// Words that a reader who knows fork does not know.
const GLOSSARY: [(&str, &str); 11] = [
    ("guest, host", "The virtual machine, and the machine that it runs on."),
    ("clone", "A virtual machine made from another. To those who use tine each is a sandbox."),
    (
        "snapshot",
        "A machine at one instant: memory, processor, devices. It never changes, and any number \
         of clones can be made from it.",
    ),
    ("spawn", "To make a clone from a snapshot."),
    (
        "live fork",
        "To make a clone from a machine that runs. It stands still for a moment, the pause, and \
         goes on; its child goes on from the same instant. One way copies the pages that it has \
         written since its own snapshot (copy), the other is fork(2) of its process (process).",
    ),
    ("cell", "The confined process that one machine lives in."),
    (
        "dormant",
        "Of a clone: made ahead of the request, in its cell, up to the first instruction, so that \
         only the waking is left to do.",
    ),
    (
        "hot set",
        "Pages that clones of a snapshot are known to write at once. They are copied in one go \
         before the guest runs, where each would else be a fault.",
    ),
    ("ladder", "The steps of a fork, each with the time that it took."),
    (
        "memslot",
        "What KVM keeps about a guest's memory: the one step of a spawn that grows with its size.",
    ),
    (
        "p50, p99",
        "The median, and what all but one in a hundred samples stay below. Of less than a hundred \
         samples p99 is the largest.",
    ),
];

/// The words.
pub fn glossary(page: &mut Page) {
    page.begin("words", "Words");
    page.push("<dl>\n");
    for (word, meaning) in GLOSSARY {
        page.push(&format!("<dt>{word}</dt><dd>{meaning}</dd>\n"));
    }
    page.push("</dl>\n");
    page.end();
}

/// A machine made and looked at with nothing but tine.
const MACHINE: [&str; 16] = [
    "# the figures of some sections, again; a page of figures that were kept",
    "tine bench --only spawn,cow-faults --json faults.json",
    "tine bench render faults.json --html faults.html",
    "# whether anything got worse between two runs",
    "tine bench compare before.json after.json",
    "",
    "# a clone, and what is private to it",
    "tine serve --listen 127.0.0.1:7070 --token-file ./token &",
    "export TINE_SERVER=127.0.0.1:7070 TINE_TOKEN_FILE=./token",
    "tine spawn --memory 256               # prints an ID",
    "tine workload ID dirty --bytes 100M",
    "tine fork ID --count 3",
    "tine memory ID                        # private, shared, page tables",
    "# what the host keeps of all of them",
    "grep -E '^(Slab|VmallocUsed|PageTables|SecPageTables|AnonPages)' /proc/meminfo",
    "cat /sys/kernel/debug/kvm/pf_taken    # faults that KVM took, of all guests",
];

/// How it was measured, in short.
pub fn method(page: &mut Page) {
    page.begin("method", "Method, in short");
    page.push(
        "<p>Times on the host are by the monotonic clock, times in a guest by its time-stamp \
         counter; the clock stops when the thing has really happened: a clone has run an \
         instruction, a page is written, a process is gone. Rivals take turns, so that a host that \
         slows down slows both. No sample is thrown away; the middle of them is given, and what \
         another run may differ by is told beside it. What can't be measured here is left out with \
         the reason, and never taken from elsewhere.</p>\n<p>A claim that names a time or a size \
         holds within a factor of two of it, either way; one that sets a bound holds if the bound \
         does. A claim of several parts holds in part if some of them do; parts that were not \
         measured do not count.</p>\n<p>More is in <code>docs/method.md</code> of tine's source: \
         clocks, warming up, outliers, the noise floor, what a virtualised host does to all of \
         it.</p>\n<h3>With tine, by hand</h3>\n",
    );
    page.shell(&MACHINE);
    page.end();
}
