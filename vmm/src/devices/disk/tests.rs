use super::*;
use proptest::prelude::*;

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn contents(disk: &Disk) -> Vec<u8> {
    let mut all = vec![0; disk.bytes() as usize];
    disk.read(0, &mut all).unwrap();
    all
}

fn random(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    getrandom::fill(&mut data).unwrap();
    data
}

#[test]
fn a_read_only_disk_is_its_file() {
    let data = random(3 * 4096 + 512);
    let base = file(&data);
    let mut disk = Disk::read_only(base.path()).unwrap();
    assert!(disk.is_read_only());
    assert_eq!(contents(&disk), data);
    let mut part = [0; 1000];
    disk.read(4000, &mut part).unwrap();
    assert_eq!(part, data[4000..5000]);
    assert!(disk.read(disk.bytes() - 10, &mut part).is_err());
    assert!(disk.read(u64::MAX, &mut part).is_err());
    assert!(disk.write(0, &[1]).is_err());
    assert_eq!(contents(&disk), data);
}

#[test]
fn what_can_be_no_disk_is_refused() {
    assert!(matches!(Disk::read_only(file(&[0; 100]).path()), Err(DiskError::Size(100))));
    assert!(matches!(Disk::read_only(Path::new("/")), Err(DiskError::Base { .. })));
    assert!(matches!(Disk::read_only(Path::new("/no/such")), Err(DiskError::File { .. })));
    assert!(Disk::overlay(None, 0).is_err());
    assert!(Disk::overlay(None, 1 << 60).is_err());
}

#[test]
fn a_record_brings_a_disk_back_and_a_changed_base_is_refused() {
    let base = file(&random(64 << 10));
    let mut disk = Disk::overlay(Some(base.path()), 128 << 10).unwrap();
    disk.write(5000, &random(10_000)).unwrap();
    disk.write(100 << 10, b"behind the base").unwrap();
    let bytes = postcard::to_stdvec(&disk).unwrap();
    let back: Disk = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(contents(&back), contents(&disk));
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(postcard::from_bytes::<Disk>(&bytes[..cut]).is_err());
    }
    std::fs::write(base.path(), random(64 << 10)).unwrap();
    let refused = Base::open(base.path()).unwrap();
    assert_ne!(refused.modified_ns, disk.base.as_ref().unwrap().modified_ns);
    assert!(postcard::from_bytes::<Disk>(&bytes).is_err());
}

#[test]
fn a_disk_with_too_much_written_is_not_put_into_a_file() {
    let mut disk = Disk::overlay(None, 64 << 20).unwrap();
    disk.write(0, &vec![7; 49 << 20]).unwrap();
    assert!(postcard::to_stdvec(&disk).is_err());
    disk.zero(0, 40 << 20).unwrap();
    assert!(postcard::to_stdvec(&disk).is_ok());
}

#[test]
fn a_chain_of_forks_reads_as_fast_as_one_disk() {
    let mut disk = Disk::overlay(None, 1 << 20).unwrap();
    let mut all = Vec::new();
    for generation in 0..50u64 {
        disk.write(generation * 4096, &[generation as u8; 4096]).unwrap();
        all.push(disk.fork());
    }
    // One look at one map, whichever fork wrote the block: a layer for each, none looked through.
    assert_eq!(disk.overlay.as_ref().unwrap().blocks(), 50);
    for (generation, older) in all.iter().enumerate() {
        let mut byte = [0];
        older.read(generation as u64 * 4096, &mut byte).unwrap();
        assert_eq!(byte, [generation as u8]);
        older.read((generation as u64 + 1) * 4096, &mut byte).unwrap();
        assert_eq!(byte, [0], "it does not see what came later");
    }
}

const SIZE: usize = 24 * 512 + 512;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Zero(usize, usize),
    Fork,
    Drop,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        4 => (0..SIZE, prop::collection::vec(any::<u8>(), 1..6000)).prop_map(|(at, data)| Step::Write(at, data)),
        2 => (0..SIZE, 1..SIZE).prop_map(|(at, bytes)| Step::Zero(at, bytes)),
        2 => Just(Step::Fork),
        1 => Just(Step::Drop),
    ];
    prop::collection::vec((any::<usize>(), step), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn forks_are_what_was_written_to_each(steps in steps(), with_base: bool) {
        let data = random(SIZE - 1024);
        let base = file(&data);
        let disk = Disk::overlay(with_base.then_some(base.path()), SIZE as u64).unwrap();
        let mut model = vec![0; SIZE];
        if with_base {
            model[..data.len()].copy_from_slice(&data);
        }
        let mut family = vec![(disk, model)];
        for (who, step) in steps {
            let who = who % family.len();
            let (disk, model) = &mut family[who];
            match step {
                Step::Write(at, data) => {
                    let data = &data[..data.len().min(SIZE - at)];
                    disk.write(at as u64, data).unwrap();
                    model[at..at + data.len()].copy_from_slice(data);
                }
                Step::Zero(at, bytes) => {
                    let bytes = bytes.min(SIZE - at);
                    disk.zero(at as u64, bytes as u64).unwrap();
                    model[at..at + bytes].fill(0);
                }
                Step::Fork => {
                    let child = (disk.fork(), model.clone());
                    family.push(child);
                }
                Step::Drop if family.len() > 1 => drop(family.remove(who)),
                Step::Drop => {}
            }
        }
        for (disk, model) in &family {
            prop_assert_eq!(&contents(disk), model);
        }
    }
}
