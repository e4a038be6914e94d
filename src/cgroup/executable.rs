//! Which process a program runs for: by the name of its executable, which the kernel has as that of a file.

use std::sync::OnceLock;

use crate::assembler::Register::{R0, R1, R2, R3, R7, R9, R10};
use crate::assembler::Size::{Byte, Double, Word};
use crate::assembler::When::{Above, AtLeast, Equal, NotEqual};
use crate::assembler::{Assembler, Helper, Label, Map, NoProgram, Program};
use crate::btf::Types;

/// Where the kernel's structures have what leads from a task to the name of its executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// The memory of a task, `task_struct.mm`.
    memory: i16,
    /// The executable that the memory was made for, `mm_struct.exe_file`: what /proc/PID/exe is.
    file: i16,
    /// Its entry in a folder, `file.f_path.dentry`.
    entry: i16,
    /// Where that has its name, `dentry.d_name.name`.
    name: i16,
}

impl Fields {
    /// For tests: as in no kernel.
    #[cfg(test)]
    pub(crate) const EXAMPLE: Self = Self { memory: 8, file: 16, entry: 24, name: 32 };

    /// Those of this kernel.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn of_kernel() -> Result<Self, &'static str> {
        static FIELDS: OnceLock<Option<Fields>> = OnceLock::new();
        let find = || {
            let types = Types::of_kernel()?;
            Some(Self {
                memory: types.offset("task_struct", "mm")?,
                file: types.offset("mm_struct", "exe_file")?,
                entry: types.offset("file", "f_path")? + types.offset("path", "dentry")?,
                name: types.offset("dentry", "d_name")? + types.offset("qstr", "name")?,
            })
        };
        FIELDS
            .get_or_init(find)
            .ok_or("this kernel does not tell where it has the name of an executable (CONFIG_DEBUG_INFO_BTF)")
    }

    #[cfg(test)]
    pub(crate) fn path(self) -> [i16; 4] {
        let Self { memory, file, entry, name } = self;
        [memory, file, entry, name]
    }
}

/// A name has at most 255 bytes (NAME_MAX); a zero follows.
const MOST_BYTES: i32 = 256;
/// Where a state has its class.
pub(crate) const CLASS: i16 = 1024;

/// Puts the class of the process that runs now, times `factor` of [`Map::Names`]' rows, on the stack at `class`: 0 if its name
/// cannot be read. `key` are 8 bytes of the stack, `name` 256. Uses all registers but r6 and r8.
pub(crate) fn find(asm: &mut Assembler, fields: Fields, class: i16, key: i16, name: i16) {
    let (next, done, unknown) = (asm.label(), asm.label(), asm.label());
    asm.store_number(Double, R10, class, 0);
    asm.call(Helper::CurrentTask);
    asm.copy(R3, R0);
    let Fields { memory, file, entry, name: of_name } = fields;
    for field in [memory, file, entry, of_name] {
        asm.add_number(R3, field.into());
        asm.copy(R1, R10);
        asm.add_number(R1, key.into());
        asm.set(R2, 8);
        asm.call(Helper::ReadKernel);
        asm.go_if(R0, NotEqual, 0, unknown);
        asm.load(Double, R3, R10, key);
    }
    asm.copy(R1, R10);
    asm.add_number(R1, name.into());
    asm.set(R2, MOST_BYTES);
    asm.call(Helper::ReadKernelText);
    // A length with the zero, or an error below 0.
    asm.go_if(R0, Above, MOST_BYTES, unknown);
    // r7 is the state, r9 how many bytes have been read.
    asm.set(R7, 0);
    asm.set(R9, 0);
    asm.place(next);
    row(asm, R7, key, unknown);
    asm.copy(R1, R10);
    asm.add_register(R1, R9);
    asm.load(Byte, R2, R1, name);
    asm.go_if(R2, Equal, 0, done);
    asm.go_if(R9, AtLeast, MOST_BYTES - 1, done);
    asm.add_register(R2, R2);
    asm.add_register(R2, R2);
    asm.add_register(R0, R2);
    asm.load(Word, R7, R0, 0);
    asm.add_number(R9, 1);
    asm.go(next);
    asm.place(done);
    asm.load(Word, R1, R0, CLASS);
    asm.store(Double, R10, class, R1);
    asm.place(unknown);
}

fn row(asm: &mut Assembler, state: crate::assembler::Register, key: i16, none: Label) {
    asm.store(Word, R10, key, state);
    asm.load_map(R1, Map::Names);
    asm.copy(R2, R10);
    asm.add_number(R2, key.into());
    asm.call(Helper::MapLookup);
    asm.go_if(R0, Equal, 0, none);
}

/// As little as asks the kernel whether programs may read its memory.
///
/// # Errors
/// [`NoProgram`]
pub(crate) fn trial() -> Result<Program, NoProgram> {
    let mut asm = Assembler::default();
    asm.call(Helper::CurrentTask);
    asm.copy(R3, R0);
    asm.copy(R1, R10);
    asm.add_number(R1, -8);
    asm.set(R2, 8);
    asm.call(Helper::ReadKernelText);
    asm.set(R0, 1);
    asm.exit();
    asm.finish("sockopt_trial")
}
