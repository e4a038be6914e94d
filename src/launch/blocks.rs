//! Reads files piece by piece, as ELF files are read: many small pieces that lie near each other.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::ReadCache;

/// As much is read at a time. Headers and tables of most programs are two to four blocks.
const BLOCK: usize = 16_384;

/// A file, of which the last block is at hand. Without that each piece costs two system calls.
#[derive(Debug)]
pub(crate) struct Blocks {
    file: File,
    length: u64,
    at: u64,
    start: u64,
    block: Vec<u8>,
}

/// A file to read ELF structures from.
///
/// # Errors
/// Those of open(2) and statx(2).
pub(crate) fn open(path: &Path) -> io::Result<ReadCache<Blocks>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(ReadCache::new(Blocks { file, length, at: 0, start: 0, block: Vec::new() }))
}

impl Read for Blocks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.len() >= BLOCK {
            let read = self.file.read_at(into, self.at)?;
            self.at += read as u64;
            return Ok(read);
        }
        let is_there = |this: &Self| (this.start..this.start + this.block.len() as u64).contains(&this.at);
        if !is_there(self) {
            self.start = self.at - self.at % BLOCK as u64;
            self.block.resize(BLOCK, 0);
            let read = self.file.read_at(&mut self.block, self.start);
            self.block.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        let offset = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
        let rest = self.block.get(offset..).unwrap_or_default();
        let read = rest.len().min(into.len());
        if let (Some(into), Some(from)) = (into.get_mut(..read), rest.get(..read)) {
            into.copy_from_slice(from);
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Blocks {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Blocks, open};
    use std::fs::{self, File};
    use std::io::{Read, Seek, SeekFrom};

    /// The same bytes as the file's, wherever and in whatever pieces they are read.
    #[test]
    fn as_the_file_itself() {
        let path = std::env::temp_dir().join(format!("sockopt-blocks-{}", std::process::id()));
        let bytes: Vec<u8> = (0..3 * BLOCK as u32 + 100).map(|at| (at ^ (at >> 8)) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let length = bytes.len() as u64;
        let mut blocks = Blocks { file: File::open(&path).unwrap(), length, at: 0, start: 0, block: Vec::new() };
        assert_eq!(blocks.seek(SeekFrom::End(0)).unwrap(), length);
        assert_eq!(blocks.read(&mut [0; 8]).unwrap(), 0);
        for at in [0, 5, BLOCK - 3, BLOCK, 2 * BLOCK - 1, bytes.len() - 20, 7, bytes.len() - BLOCK] {
            for size in [1, 7, 20, BLOCK - 1, BLOCK, BLOCK + 9] {
                let wanted = bytes.get(at..at + size);
                let mut found = vec![0; size];
                blocks.seek(SeekFrom::Start(at as u64)).unwrap();
                assert_eq!(blocks.read_exact(&mut found).is_ok(), wanted.is_some(), "{at} {size}");
                assert!(wanted.is_none_or(|wanted| wanted == found), "{at} {size}");
            }
        }
        assert!(
            blocks.seek(SeekFrom::Start(9)).is_ok_and(|at| at == 9) && blocks.seek(SeekFrom::Current(-10)).is_err()
        );
        fs::remove_file(&path).unwrap();
        assert!(open(&path).is_err());
    }
}
