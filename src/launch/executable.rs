//! Judges a program by its ELF file: does a loader preload the library into it, and what becomes of that?
//!
//! Bytes in, a verdict out: which file it is, and who may start it with what rights, is for program.rs.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::env::consts;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionTable, Sym};
use object::{Endianness, FileKind, ReadRef};

/// What becomes of the library in a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It takes effect.
    Works,
    /// It takes effect in a part of what is started.
    Partly,
    /// Nothing is known that speaks against it.
    Unknown,
    /// It has no effect, or the program does not run with it.
    Cannot,
}

/// By which way socket options get into a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// LD_PRELOAD: the loader puts libsockopt.so into it.
    Library,
    /// The kernel tells a process beside it of its calls.
    Supervisor,
}

/// The outlook in a plain sentence, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it.
    pub outlook: Outlook,
    /// Why, a sentence.
    pub why: String,
    /// What would work.
    pub instead: Option<String>,
    /// By which way the options get in, if the outlook is one.
    pub backend: Backend,
}

/// What helps where the architecture is another one.
pub(crate) const FOR_THIS_HOST: &str = "use a build for the architecture of this host";

/// How the sentence ends that says so.
pub const TAKES_EFFECT: &str = ": the library takes effect in it";

impl Verdict {
    /// It takes effect.
    pub fn works(why: String) -> Self {
        Self { outlook: Outlook::Works, why, instead: None, backend: Backend::Library }
    }

    /// It has no effect.
    pub fn cannot(why: String, instead: impl Into<String>) -> Self {
        let instead = Some(instead.into()).filter(|instead| !instead.is_empty());
        Self { outlook: Outlook::Cannot, why, instead, backend: Backend::Library }
    }

    /// It has an effect in a part.
    pub fn partly(why: String, instead: impl Into<String>) -> Self {
        Self { outlook: Outlook::Partly, why, instead: Some(instead.into()), backend: Backend::Library }
    }

    /// The same, and the supervisor reaches it.
    pub fn for_supervisor(self) -> Self {
        Self { backend: Backend::Supervisor, ..self }
    }

    /// It is not known.
    pub fn unknown(why: String) -> Self {
        Self { outlook: Outlook::Unknown, why, instead: None, backend: Backend::Library }
    }
}

/// The machine that a file is for: files of different ones cannot be put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    machine: elf::Machine,
    bits: u8,
    is_little_endian: bool,
}

/// The machine that this command is for; none for one that is not known here.
const OWN: Option<Architecture> = match () {
    () if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) => Some(Architecture::new(elf::EM_X86_64)),
    () if cfg!(all(target_arch = "aarch64", target_endian = "little")) => Some(Architecture::new(elf::EM_AARCH64)),
    () => None,
};

impl Architecture {
    /// One of 64 bits that is little endian.
    const fn new(machine: elf::Machine) -> Self {
        Self { machine, bits: 64, is_little_endian: true }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.machine, self.bits) {
            (elf::EM_X86_64, 64) => f.write_str("x86-64"),
            (elf::EM_X86_64, _) => f.write_str("x32"),
            (elf::EM_386, _) => f.write_str("32-bit x86"),
            (elf::EM_AARCH64, _) => f.write_str("AArch64"),
            (elf::EM_ARM, _) => f.write_str("32-bit ARM"),
            (elf::EM_RISCV, bits) => write!(f, "{bits}-bit RISC-V"),
            (elf::EM_PPC64, _) if self.is_little_endian => f.write_str("ppc64le"),
            (elf::EM_S390, 64) => f.write_str("s390x"),
            (machine, bits) => write!(f, "another architecture (ELF number {}, {bits} bits)", machine.0),
        }
    }
}

/// Which libc a loader belongs to, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libc {
    /// The GNU C library.
    Glibc,
    /// musl.
    Musl,
}

/// What an ELF file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// For which machine.
    pub architecture: Architecture,
    /// Its loader, PT_INTERP.
    pub loader: Option<Vec<u8>>,
    /// Whether it is a shared library or loader, with a name of its own (DT_SONAME).
    is_library: bool,
    /// The section or note that Go's linker leaves.
    is_go: bool,
    /// Libraries that it names, DT_NEEDED.
    pub needed: Vec<String>,
    /// Folders to look for these in, DT_RPATH or DT_RUNPATH, separated by colons; None if that cannot be read.
    pub search: Option<String>,
    /// Whether these are DT_RPATH's.
    pub is_rpath: bool,
    /// Versions of other files' symbols that it needs: (file, version).
    pub needs: Vec<(String, String)>,
    /// Versions of symbols that it defines.
    pub versions: BTreeSet<String>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Image {
    /// None if it is no ELF file, or none that could be started or loaded.
    pub fn read<'data, R: ReadRef<'data>>(image: R) -> Option<Self> {
        match FileKind::parse(image).ok()? {
            FileKind::Elf32 => Self::read_as::<elf::FileHeader32<Endianness>, R>(image),
            FileKind::Elf64 => Self::read_as::<elf::FileHeader64<Endianness>, R>(image),
            _ => None,
        }
    }

    fn read_as<'data, E: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(image: R) -> Option<Self> {
        let header = E::parse(image).ok()?;
        let endian = header.endian().ok()?;
        if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
            return None;
        }
        let segments = header.program_headers(endian, image).ok()?;
        // A file may come without sections: then its segments alone are to tell.
        let sections = header.sections(endian, image).unwrap_or_default();
        let has_go_note = || {
            let notes = segments.iter().filter_map(|segment| segment.notes(endian, image).ok().flatten());
            notes.flatten().filter_map(Result::ok).any(|note| note.name() == b"Go")
        };
        let mut found = Self {
            architecture: Architecture {
                machine: header.e_machine(endian),
                bits: if header.is_type_64() { 64 } else { 32 },
                is_little_endian: header.is_little_endian(),
            },
            loader: segments.iter().find_map(|s| s.interpreter(endian, image).ok().flatten()).map(<[u8]>::to_vec),
            is_library: false,
            is_go: sections.section_by_name(endian, b".note.go.buildid").is_some() || has_go_note(),
            needed: Vec::new(),
            search: None,
            is_rpath: false,
            needs: needs(&sections, endian, image).unwrap_or_default(),
            versions: versions(&sections, endian, image).unwrap_or_default(),
        };
        if let Ok(table) = sections.dynamic_table(endian, image)
            && !table.is_empty()
        {
            let entries = |tag| table.iter().filter(move |entry| entry.tag == tag).filter_map(|e| table.string(e).ok());
            found.is_library = entries(elf::DT_SONAME).next().is_some();
            found.needed = entries(elf::DT_NEEDED).map(text).collect();
            // DT_RPATH counts only without DT_RUNPATH, ld.so(8).
            found.is_rpath = entries(elf::DT_RUNPATH).next().is_none();
            found.search = Some(
                entries(elf::DT_RUNPATH).next().or_else(|| entries(elf::DT_RPATH).next()).map_or(String::new(), text),
            );
        }
        Some(found)
    }

    /// Whether a loader can load it: it has no loader of its own.
    pub fn is_shared_library(&self) -> bool {
        self.is_library || (self.loader.is_none() && self.search.is_some())
    }

    /// Whether nothing is loaded into it.
    pub fn is_static(&self) -> bool {
        self.loader.is_none() && !self.is_library
    }

    /// Whether it makes its system calls itself, or has nobody who would load a library.
    pub fn is_past_every_library(&self) -> bool {
        self.is_go || self.is_static()
    }

    /// Whether it has the same system calls as this command.
    pub fn is_for_this_machine(&self) -> bool {
        OWN.is_none_or(|own| own == self.architecture)
    }

    /// Whether the kernel runs it beside programs of this machine, by other system calls: 32-bit x86 and x32, 32-bit ARM.
    pub fn has_other_system_calls(&self) -> bool {
        match (OWN.map(|own| own.machine), self.architecture) {
            (Some(elf::EM_X86_64), own) => own.bits == 32 && matches!(own.machine, elf::EM_386 | elf::EM_X86_64),
            (Some(elf::EM_AARCH64), own) => own.machine == elf::EM_ARM,
            _ => false,
        }
    }

    /// What helps where neither a library nor the supervisor reaches it; there is no library for what has other system calls.
    pub(crate) fn instead(&self, otherwise: impl Into<String>) -> String {
        const IN_THE_KERNEL: &str = "use `sockopt attach`, which loads nothing into programs";
        if self.has_other_system_calls() { IN_THE_KERNEL.to_owned() } else { otherwise.into() }
    }

    /// Its loader, if it names one.
    pub(crate) fn loader_path(&self) -> Option<&Path> {
        self.loader.as_deref().map(|loader| Path::new(OsStr::from_bytes(loader)))
    }

    /// Which libc it runs with, by its loader's name.
    pub fn libc(&self) -> Option<Libc> {
        let name = self.loader.as_deref()?.rsplit(|byte| *byte == b'/').next()?;
        match name {
            _ if name.starts_with(b"ld-musl-") => Some(Libc::Musl),
            // ld-linux-x86-64.so.2, ld-linux.so.2, ld64.so.2 (ppc64le, s390x), ld.so.1 (s390, mips)
            _ if [&b"ld-linux"[..], b"ld64.so", b"ld.so"].iter().any(|start| name.starts_with(start)) => {
                Some(Libc::Glibc)
            }
            _ => None,
        }
    }

    /// Judges a program called `name` by its own file alone.
    pub fn verdict(&self, name: &str, architecture: Architecture, calls_sockets: impl Fn() -> bool) -> Option<Verdict> {
        const WHAT_IT_STARTS: &str =
            "with --force it runs without options, and dynamically linked programs that it starts get the library";
        if self.is_past_every_library() && !self.is_for_this_machine() {
            let kind = if self.is_go { "a Go program" } else { "statically linked" };
            return Some(Verdict::cannot(
                format!(
                    "{name} is {kind} for {}: no preloaded library sees its system calls, and the supervisor handles only programs for the architecture of this host",
                    self.architecture
                ),
                self.instead(FOR_THIS_HOST),
            ));
        }
        if self.architecture != architecture && !self.is_past_every_library() {
            return Some(Verdict::cannot(
                format!(
                    "{name} is for {}, the library for {architecture}: the loader cannot load it",
                    self.architecture
                ),
                self.instead(format!("use --library with a libsockopt.so for {}", self.architecture)),
            ));
        }
        if self.is_go {
            let linked = if self.loader.is_some() { "though dynamically linked, " } else { "" };
            if self.loader.is_some() && calls_sockets() {
                return Some(Verdict::partly(
                    format!(
                        "{name} is a Go program: the library works for the C code that it calls, but not for Go's own connections"
                    ),
                    "set net.Dialer's KeepAliveConfig in the program, or the sysctls net.ipv4.tcp_keepalive_* and tcp_retries2",
                ).for_supervisor());
            }
            return Some(Verdict::cannot(
                format!(
                                            "{name} is a Go program: {linked}it makes its system calls without libc, so no preloaded library sees them"
                ),
                format!(
                    "set net.Dialer's KeepAliveConfig in the program, or the sysctls net.ipv4.tcp_keepalive_* and tcp_retries2; {WHAT_IT_STARTS}"
                ),
            ).for_supervisor());
        }
        if self.loader.is_none() {
            return Some(if self.is_library {
                Verdict::unknown(format!(
                    "{name} is a dynamic loader: sockopt does not judge the program that it loads"
                ))
            } else {
                Verdict::cannot(
                    format!("{name} is statically linked: there is no loader that could preload a library"),
                    format!("use a dynamically linked build of it; {WHAT_IT_STARTS}"),
                )
                .for_supervisor()
            });
        }
        None
    }
}

/// The versions that a file needs of others, without the weak ones.
fn needs<'data, E: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    sections: &SectionTable<'data, E, R>,
    endian: Endianness,
    image: R,
) -> Option<Vec<(String, String)>> {
    let (files, link) = sections.gnu_verneed(endian, image).ok()??;
    let strings = sections.strings(endian, image, link).ok()?;
    let mut needs = Vec::new();
    for (file, versions) in files.filter_map(Result::ok) {
        let name = file.file(endian, strings).ok()?;
        for version in versions.filter_map(Result::ok) {
            if version.vna_flags.get(endian).0 & elf::VER_FLG_WEAK.0 == 0 {
                needs.push((text(name), text(version.name(endian, strings).ok()?)));
            }
        }
    }
    Some(needs)
}

/// The versions that a file defines.
fn versions<'data, E: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    sections: &SectionTable<'data, E, R>,
    endian: Endianness,
    image: R,
) -> Option<BTreeSet<String>> {
    let (definitions, link) = sections.gnu_verdef(endian, image).ok()??;
    let strings = sections.strings(endian, image, link).ok()?;
    let mut names = definitions.filter_map(Result::ok).filter_map(|(_, mut names)| names.next().ok().flatten());
    Some(names.by_ref().filter_map(|name| name.name(endian, strings).ok()).map(text).collect())
}

/// The names of dynamic symbols: those that a file defines for others, or those that it must get from them.
pub fn symbols<'data, R: ReadRef<'data>>(image: R, defined: bool) -> Option<BTreeSet<Cow<'data, str>>> {
    match FileKind::parse(image).ok()? {
        FileKind::Elf32 => symbols_as::<elf::FileHeader32<Endianness>, R>(image, defined),
        FileKind::Elf64 => symbols_as::<elf::FileHeader64<Endianness>, R>(image, defined),
        _ => None,
    }
}

fn symbols_as<'data, E: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    image: R,
    defined: bool,
) -> Option<BTreeSet<Cow<'data, str>>> {
    let header = E::parse(image).ok()?;
    let endian = header.endian().ok()?;
    let table = header.sections(endian, image).ok()?.symbols(endian, image, elf::SHT_DYNSYM).ok()?;
    let wanted = table
        .iter()
        .filter(|symbol| symbol.is_undefined(endian) != defined && (defined || symbol.st_bind() != elf::STB_WEAK));
    let names = wanted.filter_map(|symbol| symbol.name(endian, table.strings()).ok());
    Some(names.filter(|name| !name.is_empty()).map(String::from_utf8_lossy).collect())
}

/// The names of dynamic symbols that a file gets from others, the weak ones among them.
pub fn imports<'data, R: ReadRef<'data>>(image: R) -> Option<BTreeSet<Cow<'data, str>>> {
    match FileKind::parse(image).ok()? {
        FileKind::Elf32 => imports_as::<elf::FileHeader32<Endianness>, R>(image),
        FileKind::Elf64 => imports_as::<elf::FileHeader64<Endianness>, R>(image),
        _ => None,
    }
}

fn imports_as<'data, E: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    image: R,
) -> Option<BTreeSet<Cow<'data, str>>> {
    let header = E::parse(image).ok()?;
    let endian = header.endian().ok()?;
    let table = header.sections(endian, image).ok()?.symbols(endian, image, elf::SHT_DYNSYM).ok()?;
    // A file without section headers has symbols all the same, which are not found this way.
    if table.is_empty() {
        return None;
    }
    let wanted = table.iter().filter(|symbol| symbol.is_undefined(endian));
    Some(wanted.filter_map(|symbol| symbol.name(endian, table.strings()).ok()).map(String::from_utf8_lossy).collect())
}

/// Whether a file has the processor's instruction for a system call in its code.
pub fn makes_system_calls<'data, R: ReadRef<'data>>(image: R) -> bool {
    let Ok(FileKind::Elf64) = FileKind::parse(image) else { return false };
    let segments = || {
        let header = elf::FileHeader64::<Endianness>::parse(image).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, image).ok()?;
        let is_code = |segment: &&elf::ProgramHeader64<Endianness>| {
            segment.p_type(endian) == elf::PT_LOAD && segment.p_flags(endian).contains(elf::PF_X)
        };
        let code = segments.iter().filter(is_code).filter_map(|segment| segment.data(endian, image).ok());
        Some((header.e_machine(endian), code.collect::<Vec<_>>()))
    };
    segments().is_some_and(|(machine, code)| match machine {
        elf::EM_X86_64 => code.into_iter().any(has_syscall),
        // svc #0
        elf::EM_AARCH64 => code.into_iter().any(|code| code.chunks_exact(4).any(|word| word == [0x01, 0, 0, 0xd4])),
        _ => false,
    })
}

/// Whether these bytes have `syscall` (0f 05) in them. What only looks so is a part of a distance, whose highest byte is 00
/// or ff; a place in memory ([register + register + 5], [rsp + 15] and 5 behind it); or how the unwinder of every C program
/// knows a return from a signal (rt_sigreturn, 15).
fn has_syscall(code: &[u8]) -> bool {
    const SIGRETURN: &[u8] = &[15, 0, 0, 0];
    let is_distance = |byte: &u8| matches!(byte, 0 | 0xff);
    let has_index = |byte: u8| byte & 0xc7 == 0x44;
    code.windows(8).any(|bytes| match bytes {
        [.., before_last, last, 0x0f, 0x05, next, after] => {
            let is_place = has_index(*last) || (*last == 0x24 && has_index(*before_last));
            !is_distance(next) && !is_distance(after) && !is_place && !bytes.starts_with(SIGRETURN)
        }
        _ => false,
    })
}

/// A version such as `GLIBC_2.34` by its parts.
pub fn glibc_version(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.strip_prefix("GLIBC_")?.split_once('.')?;
    Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
}

/// Where glibc's loader looks when all else is done: its own folders, the first two by Debian's and Ubuntu's (ld.so(8)).
pub(crate) fn glibcs_folders() -> [PathBuf; 6] {
    let [lib, usr_lib] = ["/lib", "/usr/lib"].map(|folder| format!("{folder}/{}-linux-gnu", consts::ARCH));
    [&lib, &usr_lib, "/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from)
}
