//! Kernels: what is in a bzImage, and which version one is.
//!
//! The layout is that of the kernel's `Documentation/arch/x86/boot.rst`.

use std::ops::Range;

use thiserror::Error;

/// Where a bzImage says how many sectors of 512 bytes follow its first; none is four.
const SETUP_SECTORS: usize = 0x1f1;
/// Where a bzImage has `HdrS`.
const MAGIC: usize = 0x202;
/// The version of the boot protocol.
const PROTOCOL: usize = 0x206;
/// Where the version's text is, from the second sector on.
const KERNEL_VERSION: usize = 0x20e;
/// Where the compressed kernel is, from the end of the setup sectors on.
const PAYLOAD_OFFSET: usize = 0x248;
/// How long it is.
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first protocol whose bzImages have a payload that can be found: 2.08.
const PAYLOAD_PROTOCOL: u16 = 0x0208;
/// What an ELF file begins with.
const ELF: &[u8] = b"\x7fELF";
/// What precedes the version in a kernel without setup sectors.
const BANNER: &[u8] = b"Linux version ";
/// No kernel's version is longer (`__NEW_UTS_LEN`).
const VERSION_LIMIT: usize = 64;

/// Why bytes are not a kernel that tine can use.
#[derive(Debug, Error)]
pub(crate) enum KernelError {
    #[error("it is neither a bzImage nor a vmlinux")]
    Unknown,
    #[error("its header ends early, or names what it does not have")]
    Truncated,
    #[error("its boot protocol is {0:#06x}, at least 0x0208 is needed")]
    Protocol(u16),
    #[error("it is compressed with {0}; tine unpacks zstd")]
    Compression(&'static str),
    #[error("it can't be decompressed: {0}")]
    Decompress(String),
    #[error("it is {found} bytes long, and should be {expected}")]
    Length { found: usize, expected: usize },
    #[error("what it holds is no ELF file")]
    NotElf,
    #[error("it does not say which version it is")]
    NoVersion,
}

/// A kernel as it is booted.
#[derive(Debug)]
pub(crate) struct Vmlinux {
    pub(crate) elf: Vec<u8>,
    pub(crate) version: String,
}

/// What the header of a bzImage says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    version: String,
    payload: Range<usize>,
}

/// Takes the kernel out of a bzImage.
pub(crate) fn extract(image: &[u8]) -> Result<Vmlinux, KernelError> {
    let header = Header::parse(image)?;
    let payload = image.get(header.payload).ok_or(KernelError::Truncated)?;
    // The build appends the length of what comes out.
    let (compressed, length) = payload.split_last_chunk::<4>().ok_or(KernelError::Truncated)?;
    let elf = decompress(compressed)?;
    let expected = u32::from_le_bytes(*length) as usize;
    if elf.len() != expected {
        return Err(KernelError::Length { found: elf.len(), expected });
    }
    if !elf.starts_with(ELF) {
        return Err(KernelError::NotElf);
    }
    Ok(Vmlinux { elf, version: header.version })
}

/// The version of a bzImage or vmlinux, as `uname -r` prints it.
pub(crate) fn version(kernel: &[u8]) -> Result<String, KernelError> {
    if !kernel.starts_with(ELF) {
        return Header::parse(kernel).map(|header| header.version);
    }
    let start = kernel
        .windows(BANNER.len())
        .position(|window| window == BANNER)
        .ok_or(KernelError::NoVersion)?;
    first_word(&kernel[start + BANNER.len()..]).ok_or(KernelError::NoVersion)
}

impl Header {
    fn parse(image: &[u8]) -> Result<Self, KernelError> {
        if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
            return Err(KernelError::Unknown);
        }
        let protocol = u16::from_le_bytes(field(image, PROTOCOL)?);
        if protocol < PAYLOAD_PROTOCOL {
            return Err(KernelError::Protocol(protocol));
        }
        let [sectors] = field(image, SETUP_SECTORS)?;
        let setup = (if sectors == 0 { 4 } else { usize::from(sectors) } + 1) * 512;
        let offset = u32::from_le_bytes(field(image, PAYLOAD_OFFSET)?) as usize;
        let length = u32::from_le_bytes(field(image, PAYLOAD_LENGTH)?) as usize;
        let payload = setup + offset..setup + offset + length;
        if payload.end > image.len() {
            return Err(KernelError::Truncated);
        }
        let text = usize::from(u16::from_le_bytes(field(image, KERNEL_VERSION)?)) + 512;
        let version = image.get(text..).and_then(first_word).ok_or(KernelError::NoVersion)?;
        Ok(Self { version, payload })
    }
}

fn field<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N], KernelError> {
    image.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(KernelError::Truncated)
}

/// What comes before the first blank, if that is a version.
fn first_word(text: &[u8]) -> Option<String> {
    let word: String = text
        .iter()
        .take(VERSION_LIMIT + 1)
        .map(|byte| char::from(*byte))
        .take_while(char::is_ascii_graphic)
        .collect();
    ((1..=VERSION_LIMIT).contains(&word.len())).then_some(word)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    let other = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return unzstd(payload),
        [0x1f, 0x8b, ..] => "gzip",
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "xz",
        [0x5d, 0, 0, ..] => "lzma",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x89, b'L', b'Z', b'O', ..] => "lzo",
        _ => "something unknown",
    };
    Err(KernelError::Compression(other))
}

fn unzstd(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    let failed = |error: &dyn std::fmt::Display| KernelError::Decompress(error.to_string());
    let mut decoder =
        ruzstd::decoding::StreamingDecoder::new(payload).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut decoder, &mut bytes).map_err(|error| failed(&error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A bzImage with one setup sector that holds `payload`.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PROTOCOL..PROTOCOL + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x100_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = payload.len() as u32;
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image[0x300..0x30f].copy_from_slice(b"6.12.1-x (me) #");
        image.extend([0; 16]);
        image.extend(payload);
        image
    }

    /// `data` as zstd with one raw block (RFC 8878, sections 3.1.1.1 and 3.1.1.2), and its
    /// length as the kernel's build appends it.
    fn payload(data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, data.len() as u8];
        bytes.extend(&((data.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        bytes.extend(data);
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes
    }

    #[test]
    fn the_kernel_comes_out_of_a_bzimage() {
        let kernel = extract(&bzimage(&payload(b"\x7fELF and more"))).unwrap();
        assert_eq!(kernel.elf, b"\x7fELF and more");
        assert_eq!(kernel.version, "6.12.1-x");
    }

    #[test]
    fn the_length_is_checked() {
        let mut bytes = payload(b"\x7fELF and more");
        *bytes.last_mut().unwrap() = 1;
        assert!(matches!(extract(&bzimage(&bytes)), Err(KernelError::Length { .. })));
    }

    #[test]
    fn what_comes_out_must_be_elf() {
        assert!(matches!(extract(&bzimage(&payload(b"text"))), Err(KernelError::NotElf)));
    }

    #[test]
    fn other_compressions_are_named() {
        let error = extract(&bzimage(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0])).unwrap_err();
        assert!(error.to_string().contains("gzip"), "{error}");
    }

    #[test]
    fn an_old_or_foreign_file_is_refused() {
        let mut image = bzimage(b"");
        image[PROTOCOL..PROTOCOL + 2].copy_from_slice(&0x0207_u16.to_le_bytes());
        assert!(matches!(extract(&image), Err(KernelError::Protocol(0x0207))));
        assert!(matches!(extract(b"#!/bin/sh"), Err(KernelError::Unknown)));
    }

    #[test]
    fn a_vmlinux_says_its_version_in_its_banner() {
        let kernel = b"\x7fELF....Linux version 6.1.0-test (someone@somewhere)";
        assert_eq!(version(kernel).unwrap(), "6.1.0-test");
        assert!(matches!(version(b"\x7fELF"), Err(KernelError::NoVersion)));
    }

    proptest! {
        #[test]
        fn any_header_is_taken_or_refused(
            head in prop::collection::vec(any::<u8>(), 0x250),
            rest in 0_usize..200_000,
        ) {
            let mut image = head;
            image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
            image.resize(0x250 + rest, b'x');
            if let Ok(header) = Header::parse(&image) {
                prop_assert!(header.payload.end <= image.len());
                prop_assert!(header.version.len() <= VERSION_LIMIT);
            }
        }

        #[test]
        fn no_cut_of_an_image_is_a_panic(length in 0_usize..1100) {
            let image = bzimage(&payload(b"\x7fELF and more"));
            if length < image.len() {
                prop_assert!(extract(&image[..length]).is_err());
            }
        }
    }
}
