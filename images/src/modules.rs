//! The kernel modules that a guest loads before it has a root file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::endian::LittleEndian;

use crate::error::{ImageError, io_error};

/// A module as the initramfs has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file's name, `….ko`.
    pub(crate) file: String,
    /// The ELF file.
    pub(crate) elf: Vec<u8>,
}

/// The modules of one kernel, unpacked from its package.
pub(crate) struct Tree {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    /// Reads which modules there are in `directory`, a `/lib/modules/VERSION`.
    pub(crate) fn open(directory: &Path) -> Result<Self, ImageError> {
        let list = directory.join("modules.builtin");
        let builtin = fs::read_to_string(&list).map_err(io_error("read", &list))?;
        let builtin = builtin.lines().filter_map(|path| name_of(Path::new(path))).collect();
        let mut files = BTreeMap::new();
        find(directory, &mut files)?;
        Ok(Self { files, builtin })
    }

    /// The modules `wanted` with all that they need, each after what it needs. What the
    /// kernel has built in is left out.
    pub(crate) fn closure(&self, wanted: &[String]) -> Result<Vec<Module>, ImageError> {
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&plain(name), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<(), ImageError> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let failed = |reason: String| ImageError::Module { module: name.to_owned(), reason };
        let path = self
            .files
            .get(name)
            .ok_or_else(|| failed("this kernel does not have it".to_owned()))?;
        let bytes = fs::read(path).map_err(io_error("read", path))?;
        let elf = unpack(path, bytes).map_err(failed)?;
        for needed in needs(&elf).map_err(failed)? {
            self.visit(&needed, seen, order)?;
        }
        order.push(Module { file: format!("{name}.ko"), elf });
        Ok(())
    }
}

/// Puts the modules below `directory` into `files`, by name.
fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ImageError> {
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        let path = entry.path();
        if entry.file_type().map_err(io_error("look at", &path))?.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name of the module in a file `name.ko` or `name.ko.xz`.
fn name_of(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(plain(name))
}

/// Names of modules are the same with `-` and `_`.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn unpack(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => Ok(bytes),
        Some("xz") => {
            let mut elf = Vec::new();
            lzma_rs::xz_decompress(&mut &bytes[..], &mut elf)
                .map_err(|error| format!("{}: {error:?}", path.display()))?;
            Ok(elf)
        }
        _ => Err(format!("{} is neither plain nor compressed with xz", path.display())),
    }
}

/// What a module says it needs: `depends=a,b` in its section `.modinfo`. depmod writes its
/// `modules.dep` from symbols when a kernel is installed, which does not happen here.
fn needs(elf: &[u8]) -> Result<Vec<String>, String> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(elf).map_err(|error| error.to_string())?;
    let section = file
        .section_header_by_name(".modinfo")
        .map_err(|error| error.to_string())?
        .ok_or("it has no .modinfo")?;
    let (info, _) = file.section_data(&section).map_err(|error| error.to_string())?;
    Ok(dependencies(info))
}

fn dependencies(info: &[u8]) -> Vec<String> {
    info.split(|byte| *byte == 0)
        .filter_map(|line| line.strip_prefix(b"depends="))
        .flat_map(|names| names.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| plain(&String::from_utf8_lossy(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module whose `.modinfo` is `info`: an ELF header, the section, the names of the
    /// sections, and three section headers.
    pub(crate) fn module(info: &str) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
        let (info_at, names_at) = (64, 64 + info.len());
        let headers_at = names_at + NAMES.len();
        let mut elf = Vec::new();
        elf.extend(b"\x7fELF\x02\x01\x01");
        elf.resize(16, 0);
        elf.extend([1_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
        elf.extend(1_u32.to_le_bytes());
        elf.extend([0, 0, headers_at as u64].iter().flat_map(|word| word.to_le_bytes()));
        elf.extend(0_u32.to_le_bytes());
        elf.extend([64_u16, 0, 0, 64, 3, 2].iter().flat_map(|half| half.to_le_bytes()));
        elf.extend(info.as_bytes());
        elf.extend(NAMES);
        for (name, kind, at, size) in
            [(0_u32, 0_u32, 0, 0), (1, 1, info_at, info.len()), (10, 3, names_at, NAMES.len())]
        {
            elf.extend([name, kind].iter().flat_map(|half| half.to_le_bytes()));
            let words = [0, 0, at as u64, size as u64, 0, 0, 0];
            elf.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        elf
    }

    fn tree(modules: &[(&str, &str)], builtin: &str) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("modules.builtin"), builtin).unwrap();
        fs::create_dir_all(directory.path().join("kernel/drivers")).unwrap();
        for (name, depends) in modules {
            let path = directory.path().join(format!("kernel/drivers/{name}.ko.xz"));
            let mut packed = Vec::new();
            let elf = module(&format!("license=GPL\0depends={depends}\0name={name}\0"));
            lzma_rs::xz_compress(&mut &elf[..], &mut packed).unwrap();
            fs::write(path, packed).unwrap();
        }
        let tree = Tree::open(directory.path()).unwrap();
        (directory, tree)
    }

    fn order(tree: &Tree, wanted: &[&str]) -> Result<Vec<String>, ImageError> {
        let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
        Ok(tree.closure(&wanted)?.into_iter().map(|module| module.file).collect())
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let (_directory, tree) = tree(
            &[("a", "c-c,b"), ("b", "c-c"), ("c-c", "core"), ("unwanted", "")],
            "kernel/core.ko\n",
        );
        assert_eq!(order(&tree, &["a", "c_c"]).unwrap(), ["c_c.ko", "b.ko", "a.ko"]);
    }

    #[test]
    fn a_circle_ends() {
        let (_directory, tree) = tree(&[("a", "b"), ("b", "a")], "");
        assert_eq!(order(&tree, &["a"]).unwrap(), ["b.ko", "a.ko"]);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let (_directory, tree) = tree(&[("a", "gone")], "");
        let error = order(&tree, &["a"]).unwrap_err();
        assert!(error.to_string().contains("`gone`"), "{error}");
    }
}
