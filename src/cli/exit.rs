//! Exit codes: sysexits.h for a configuration, env(1) for a program that cannot be started.

/// All is well.
pub(crate) const OK: u8 = 0;
/// The library cannot be found, or cannot take effect in this program; a process cannot be found, or not be looked into.
pub(crate) const CANNOT_WORK: u8 = 1;
/// The configuration has advice, which `--deny-advice` takes for a fault.
pub(crate) const ADVICE: u8 = 1;
/// Something that `import` was to say is not in what it prints, which `--strict` takes for a fault.
pub(crate) const NOT_ALL: u8 = 1;
/// A host name has no address.
pub(crate) const NO_ADDRESS: u8 = 1;
/// Wrong usage, as clap has it.
pub(crate) const USAGE: u8 = 2;
/// The configuration has errors, EX_CONFIG.
pub(crate) const CONFIGURATION: u8 = 78;
pub(crate) use launch::find::{CANNOT_START, NOT_FOUND};

/// Every code, for the help of the command as a whole: each subcommand lists its own.
pub(crate) const ALL: [(u8, &str); 6] = [
    (OK, "success"),
    (CANNOT_WORK, "failed; see SUBCOMMAND --help"),
    (USAGE, "wrong usage"),
    (CONFIGURATION, "the configuration has errors"),
    (CANNOT_START, "run: the program was found and cannot be started"),
    (NOT_FOUND, "run: the program was not found"),
];

/// The exit codes of what only prints.
pub(crate) const PRINTING: [(u8, &str); 3] =
    [(OK, "success"), (CANNOT_WORK, "the output could not be written"), (USAGE, "wrong usage")];

/// A section for the end of a help page, from which the manual page makes its own: a heading with a colon, then a line
/// for each entry.
pub(crate) fn section(codes: &[(u8, &str)]) -> String {
    let lines = codes.iter().map(|(code, meaning)| format!("\n  {code:<4} {meaning}"));
    std::iter::once("Exit status:".to_owned()).chain(lines).collect()
}
