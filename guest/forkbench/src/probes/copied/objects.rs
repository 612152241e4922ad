//! What each thing takes in the kernel: many children live at once, and its objects are counted
//! before and after.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::thread::sleep;
use std::time::Duration;

use super::Thing;
use super::calls::{MORE, Mappings, TABLES_BYTES, open_files};
use crate::child::{Call, Child, Partner, double, leave};
use crate::counters::page_tables;
use crate::failure::{During, Failure};
use crate::pages::PAGE;
use crate::region::Region;
use crate::rows::{Backing, Density, Memory};
use crate::slab::{Slabs, kernel_stacks, object_bytes};

/// Objects of the list of mappings.
const MAPPINGS: [&str; 5] =
    ["vm_area_struct", "vma_lock", "maple_node", "anon_vma", "anon_vma_chain"];
/// Those of the process itself; it has a stack in the kernel beside them.
const PROCESS: [&str; 2] = ["task_struct", "signal_cache"];
/// What a table of 1,024 descriptors is put into, in kernels with accounting and without.
const DESCRIPTORS: [&str; 2] = ["kmalloc-cg-8k", "kmalloc-8k"];
/// Until the kernel has freed what the children before had.
const PEACE: Duration = Duration::from_millis(100);

/// What something takes, and how that was found or why not.
pub struct Bytes {
    pub bytes: Option<f64>,
    pub how: String,
}

/// What children take.
pub struct Objects {
    /// Of a small parent.
    plain: Growth,
    /// Of a parent with 1,000 more mappings.
    mappings: Growth,
    /// Of a parent with 1,000 more descriptors.
    descriptors: Growth,
}

/// How much the kernel's objects grew by each of many children.
struct Growth {
    children: f64,
    slabs: Result<(Slabs, Slabs), String>,
    stack: f64,
}

impl Objects {
    /// Makes `children` children of each kind of parent, and counts.
    pub fn count(children: usize) -> Result<Self, Failure> {
        let plain = Growth::of(children)?;
        let mappings = {
            let _mappings = Mappings::new()?;
            Growth::of(children)?
        };
        let _files = open_files()?;
        Ok(Self { plain, mappings, descriptors: Growth::of(children)? })
    }

    /// What `thing` takes of each child.
    pub fn of(&self, thing: Thing) -> Result<Bytes, Failure> {
        let none = |how: &str| Ok(Bytes { bytes: None, how: how.into() });
        match thing {
            Thing::Process => Ok(self.plain.each(&PROCESS, self.plain.stack, "a kernel stack")),
            Thing::Memory => {
                let kinds = [&["mm_struct"], &MAPPINGS[..]].concat();
                Ok(self.plain.each(&kinds, 0.0, "what a small program has mapped"))
            }
            Thing::Mappings => Ok(self.mappings.more(&self.plain, &MAPPINGS)),
            Thing::Tables => tables(),
            Thing::Descriptors => Ok(self.descriptors.more(&self.plain, &DESCRIPTORS)),
            Thing::Handlers => Ok(self.plain.each(&["sighand_cache"], 0.0, "")),
            Thing::Credentials => Ok(self.plain.each(&["cred_jar", "cred"], 0.0, "")),
            Thing::Limits => limits(),
            Thing::Mask => none("not measured: it is in one structure with the working directory"),
            Thing::Environment => none("not measured: it is memory like other memory"),
            Thing::Frames => frame(),
            Thing::Files => Ok(self.descriptors.more(&self.plain, &["filp"])),
            Thing::Directory => Ok(self.plain.each(&["fs_cache"], 0.0, "")),
        }
    }
}

impl Growth {
    fn of(children: usize) -> Result<Self, Failure> {
        let (hear, let_go) = pipe().during("pipe")?;
        sleep(PEACE);
        let (slabs, stacks) = (Slabs::read()?, kernel_stacks()?);
        let alive = waiting(children, &hear, &let_go)?;
        let growth = Self {
            children: children as f64,
            stack: (kernel_stacks()? as f64 - stacks as f64) / children as f64,
            slabs: match (slabs, Slabs::read()?) {
                (Ok(before), Ok(after)) => Ok((before, after)),
                (Err(why), _) | (_, Err(why)) => Err(why),
            },
        };
        drop(let_go);
        alive.into_iter().try_for_each(|child| child.wait("wait for its parent"))?;
        Ok(growth)
    }

    /// Bytes of the objects `kinds` for each child, or why they are not known.
    fn bytes(&self, kinds: &[&str]) -> Result<f64, String> {
        let (before, after) = self.slabs.as_ref().map_err(Clone::clone)?;
        Ok(after.grown(before, kinds) / self.children)
    }

    /// What each child takes of `kinds`, and `more` that is `what`.
    fn each(&self, kinds: &[&str], more: f64, what: &str) -> Bytes {
        if let Ok((before, _)) = &self.slabs
            && !before.lists(kinds)
        {
            return one(kinds);
        }
        let list = kinds.join(", ");
        let what = if what.is_empty() { String::new() } else { format!(", and {what}") };
        known(
            self.bytes(kinds).map(|bytes| bytes + more),
            format!("{list} in /proc/slabinfo{what}: growth by {} children", self.children),
        )
    }

    /// What each child takes of `kinds` more than one of `plain`.
    fn more(&self, plain: &Self, kinds: &[&str]) -> Bytes {
        let more = self.bytes(kinds).and_then(|with| Ok(with - plain.bytes(kinds)?));
        known(
            more,
            format!(
                "{} in /proc/slabinfo: growth by {} children of a parent with {MORE} more, less \
                 that without",
                kinds.join(", "),
                self.children
            ),
        )
    }
}

/// What one object of `kinds`, which are names of the same, takes.
fn one(kinds: &[&str]) -> Bytes {
    match kinds.iter().find_map(|kind| Some((kind, object_bytes(kind)?))) {
        Some((kind, bytes)) => Bytes {
            bytes: Some(bytes),
            how: format!(
                "the size of one {kind} in /sys/kernel/slab: the kernel lists it together with \
                 other objects, so those of children can't be counted"
            ),
        },
        None => Bytes {
            bytes: None,
            how: format!("not measured: this kernel lists no {}", kinds.join(" and no ")),
        },
    }
}

fn known(bytes: Result<f64, String>, how: String) -> Bytes {
    match bytes {
        Ok(bytes) => Bytes { bytes: Some(bytes), how },
        Err(why) => Bytes { bytes: None, how: format!("not measured: {why}") },
    }
}

/// Children that wait until nobody can write to the pipe any more.
fn waiting(count: usize, hear: &PipeReader, let_go: &PipeWriter) -> Result<Vec<Child>, Failure> {
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(let_go);
    let mut children = Vec::with_capacity(count);
    for _ in 0..count {
        // SAFETY: the child makes two system calls, and leaves.
        match unsafe { double(Call::Fork) }? {
            Some(child) => children.push(child),
            None => {
                // SAFETY: the child owns its copy of the descriptor, and drops nothing: it leaves.
                unsafe { libc::close(descriptor) };
                leave(i32::from(!matches!((&*hear).read(&mut [0]), Ok(0))))
            }
        }
    }
    Ok(children)
}

/// All limits of a process: a soft and a hard one of each kind.
fn limits() -> Result<Bytes, Failure> {
    const LIST: &str = "/proc/self/limits";
    let list = fs::read_to_string(LIST).during(&format!("reading {LIST}"))?;
    // The first line says what is in the others.
    let kinds = list.lines().count().saturating_sub(1);
    let how = format!(
        "{kinds} kinds in {LIST} times the size of a limit, by arithmetic: they are counted in the \
         process control block"
    );
    Ok(Bytes { bytes: Some((kinds * size_of::<libc::rlimit>()) as f64), how })
}

/// Page tables of a region, in a child.
fn tables() -> Result<Bytes, Failure> {
    let look = || Partner::fork(|line| line.tell(&page_tables("self")?))?.answer::<u64>("look");
    let before = look()?;
    let region = Region::filled(TABLES_BYTES, Backing::Small, Density::Dense)?;
    let bytes = look()? as f64 - before as f64;
    drop(region);
    let how = "VmPTE of a child, less that of a child without the region".into();
    Ok(Bytes { bytes: Some(bytes), how })
}

/// Memory of a child's own after it has written some pages, by the page.
fn frame() -> Result<Bytes, Failure> {
    const WRITTEN: usize = 256;
    let region = Region::filled(2 << 20, Backing::Small, Density::Dense)?;
    let partner = Partner::fork(|line| {
        (0..WRITTEN).for_each(|page| region.write(page, 0));
        line.tell(&region.memory()?)
    })?;
    let memory: Memory = partner.answer("write pages")?;
    Ok(Bytes {
        bytes: Some(memory.private_dirty_bytes as f64 / WRITTEN as f64),
        how: format!("Private_Dirty after {WRITTEN} pages of {PAGE} were written, by the page"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_frames_are_counted() {
        // 64 MiB are 32 tables, and perhaps some above them.
        let tables = tables().unwrap().bytes.unwrap() / 4096.0;
        assert!((32.0..36.0).contains(&tables), "{tables}");
        assert_eq!(frame().unwrap().bytes, Some(4096.0));
    }

    #[test]
    fn each_child_has_a_stack_and_a_block() {
        let growth = Growth::of(100).unwrap();
        // 16 KiB on x86-64, less what others end meanwhile.
        assert!((8192.0..40_000.0).contains(&growth.stack), "{}", growth.stack);
        match growth.bytes(&PROCESS) {
            Ok(bytes) => assert!((2000.0..40_000.0).contains(&bytes), "{bytes}"),
            Err(why) => assert!(why.contains("only root"), "{why}"),
        }
        assert_eq!(one(&["none", "nothing"]).bytes, None);
    }
}
