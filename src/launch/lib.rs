//! Judges a program before it is started: by which way socket options get into it, whether they take effect there, and why not.
//!
//! Nothing is started here, and nothing is written. Files are read as far as their headers and tables go.

mod blocks;
pub mod executable;
pub mod find;
pub mod imports;
mod judge;
pub mod library;
pub mod named;
pub mod neighbours;
pub mod privilege;
pub mod program;
mod root;
mod shell_text;
pub mod wrapper;
mod wrapper_table;

pub use executable::{Backend, Outlook, Verdict};
pub use library::Library;
pub use program::Program;
