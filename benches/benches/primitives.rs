//! The primitives that a fork is made of, one by one, by Criterion.
//!
//! `cargo bench -p tine-bench`. The suite measures whole forks; this tells which of their
//! parts got slower.

#![allow(clippy::unwrap_used, reason = "a primitive that fails has no figure")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tine_abi::command::{Command, Op};
use tine_abi::layout::data_bytes;
use tine_abi::pattern::Selection;
use tine_vmm::kvm::{ClockPolicy, Shell, ShellConfig, Slot, VcpuState, VmState};
use tine_vmm::memory::pagemap::{Method, Want, find_by};
use tine_vmm::memory::{GuestRam, PAGE_SIZE, Run, Runs};
use tine_vmm::{KvmHost, Machine, MachineConfig, Snapshot, SpawnOptions};

/// Sizes of guests, MiB.
const SIZES: [u64; 3] = [64, 256, 1024];
/// How old a VM must be to be closed without waiting for the kernel.
const AGE: Duration = Duration::from_millis(60);

fn host() -> Arc<KvmHost> {
    Arc::new(KvmHost::open().unwrap())
}

/// A snapshot of a guest that has written its first 64 MiB.
fn snapshot(host: &Arc<KvmHost>, mib: u64) -> Snapshot {
    let config = MachineConfig { ram_bytes: mib << 20, ..MachineConfig::default() };
    let machine = Machine::boot(host, &config, Box::new(std::io::sink())).unwrap();
    let pages = (data_bytes(mib << 20) / PAGE_SIZE as u64).min(16 << 10);
    let write = Command::new(Op::Dirty, Selection::sequential(0, pages));
    machine.run(0, &write, Duration::from_secs(60)).unwrap();
    machine.snapshot().unwrap().0
}

/// Mapping a clone's memory and letting it go again.
fn map(criterion: &mut Criterion) {
    let host = host();
    let mut group = criterion.benchmark_group("map a clone");
    for mib in SIZES {
        let snapshot = snapshot(&host, mib);
        group.bench_function(BenchmarkId::from_parameter(format!("{mib} MiB")), |bencher| {
            bencher.iter(|| {
                GuestRam::copy_on_write(&snapshot.image, snapshot.state.ram.clone()).unwrap()
            });
        });
    }
}

/// Making a VM with memslot, irqchip and a vCPU. Closing it is not timed, and comes late
/// enough not to disturb the next.
fn shell(criterion: &mut Criterion) {
    let host = host();
    let mut group = criterion.benchmark_group("make a shell");
    for mib in SIZES {
        let snapshot = snapshot(&host, mib);
        let ram = GuestRam::copy_on_write(&snapshot.image, snapshot.state.ram.clone()).unwrap();
        let config = ShellConfig { vcpus: 1, slots: Slot::of(&ram), pit: false };
        group.bench_function(BenchmarkId::from_parameter(format!("{mib} MiB")), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut sum = Duration::ZERO;
                for _ in 0..iterations {
                    let begun = Instant::now();
                    let shell = Shell::new(&host, &config).unwrap();
                    sum += begun.elapsed();
                    std::thread::sleep(AGE);
                    drop(shell);
                }
                sum
            });
        });
    }
}

/// Reading the state of a vCPU and a VM, and giving it back.
fn state(criterion: &mut Criterion) {
    let host = host();
    let config = ShellConfig { vcpus: 1, slots: vec![], pit: false };
    let shell = Shell::new(&host, &config).unwrap();
    let vcpu = &shell.vcpus[0];
    let msrs = &host.msrs().state;
    let mut group = criterion.benchmark_group("state");
    group.bench_function("capture a vCPU", |bencher| {
        bencher.iter(|| VcpuState::capture(vcpu, 0, msrs).unwrap());
    });
    let state = VcpuState::capture(vcpu, 0, msrs).unwrap();
    group.bench_function("restore a vCPU", |bencher| {
        bencher.iter(|| state.restore(vcpu, 0).unwrap());
    });
    group.bench_function("capture a VM", |bencher| {
        bencher.iter(|| VmState::capture(&shell.vm, false).unwrap());
    });
    let state = VmState::capture(&shell.vm, false).unwrap();
    group.bench_function("restore a VM", |bencher| {
        bencher.iter(|| state.restore(&shell.vm, ClockPolicy::CatchUp).unwrap());
    });
}

/// Finding the private pages of a GiB, by both methods.
fn pagemap(criterion: &mut Criterion) {
    let host = host();
    let snapshot = snapshot(&host, 1024);
    let mut group = criterion.benchmark_group("find private pages of 1 GiB");
    for dirty in [1000, 10_000] {
        let ram = GuestRam::copy_on_write(&snapshot.image, snapshot.state.ram.clone()).unwrap();
        let pages = (ram.mapping().bytes() / PAGE_SIZE) as u64;
        for page in Selection::scattered(pages, dirty, 1).iter() {
            // SAFETY: the page lies in the mapping, which no guest uses.
            unsafe { ram.mapping().address().add(page as usize * PAGE_SIZE).write_volatile(1) };
        }
        for (name, method) in [("PAGEMAP_SCAN", Method::Scan), ("pagemap", Method::Read)] {
            if find_by(method, ram.mapping(), Want::Private).is_err() {
                eprintln!("this kernel has no {name}");
                continue;
            }
            group.bench_function(BenchmarkId::new(name, dirty), |bencher| {
                bencher.iter(|| find_by(method, ram.mapping(), Want::Private).unwrap());
            });
        }
    }
}

/// The union of two sets of ten thousand pages each.
fn runs(criterion: &mut Criterion) {
    let set = |seed| -> Runs {
        let mut pages: Vec<u64> = Selection::scattered(262_144, 10_000, seed).iter().collect();
        pages.sort_unstable();
        pages.into_iter().map(|first| Run { first, pages: 1 }).collect()
    };
    let (one, other) = (set(1), set(2));
    criterion.bench_function("union of 2 x 10000 pages", |bencher| {
        bencher.iter(|| black_box(&one).union(black_box(&other)));
    });
}

/// Killing a clone and closing everything that it held, when it is old enough not to
/// wait for the kernel.
fn teardown(criterion: &mut Criterion) {
    let host = host();
    let snapshot = snapshot(&host, 256);
    criterion.bench_function("teardown of an idle clone of 256 MiB", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut sum = Duration::ZERO;
            for _ in 0..iterations {
                let clone = Machine::spawn(&host, &snapshot, SpawnOptions::new()).unwrap();
                std::thread::sleep(AGE);
                let begun = Instant::now();
                drop(clone);
                sum += begun.elapsed();
            }
            sum
        });
    });
}

criterion_group! {
    name = primitives;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = map, shell, state, pagemap, runs, teardown
}
criterion_main!(primitives);
